"""`gcl compare` sets level only what is of the same rows, and says the same in the terminal, Markdown, CSV and HTML."""

import csv
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from rich.markdown import Markdown

from gcl.cli import run_command
from gcl.compare.chart import charts_of
from gcl.compare.command import main, split_folders
from gcl.compare.comparison import Comparison, compare
from gcl.compare.entry import METRICS
from gcl.compare.moved import moved_queries
from gcl.compare.published import TABLE, load_published
from gcl.compare.significance import corrected
from gcl.compare.table import Table
from gcl.errors import UserError
from gcl.retrieval.metrics import QUERY_METRICS
from gcl.retrieval.result import Result, write_result
from gcl.retrieval.statistics import randomization_test

PUBLISHED_FILE = Path(__file__).resolve().parents[2] / "shared/data/published/marqo_ecommerce.csv"
HOSTILE = "a|b </td><script>alert(1)</script> **bold** [link](http://x.example) `code` _so_ <u>&amp;"
TITLE, CATEGORY = "google_shopping_title2image", "google_shopping_category2image"
ALL_ROWS = 982_700  # of Google Shopping, as published


def write(folder: Path, model: str, values: Sequence[float] | dict[str, Sequence[float]], **given: Any) -> Path:
    """A result whose metrics have these values query by query: each the same, or some by name and the others 0.5."""
    if not isinstance(values, dict):
        values = dict.fromkeys(METRICS, values)
    queries = len(next(iter(values.values())))
    by_query = {name: np.array(values.get(name, [0.5] * queries), dtype=np.float64) for name in QUERY_METRICS}
    ids = given.pop("ids", [f"{number:04d}" for number in range(queries)])
    table = {
        "query_id": pa.array(ids, pa.string()),
        "query": [f"query {number}" for number in ids],
        "relevant": pa.array([given.pop("relevant", 1)] * queries, pa.int32()),
        "first_relevant": pa.array(given.pop("ranks", [1] * queries), pa.int32()),
        **by_query,
        "retrieved_ids": [["a", "b"]] * queries,
        "retrieved_rows": [[0, 1]] * queries,
        "retrieved_scores": [[0.5, 0.25]] * queries,
        "retrieved_grades": [[1.0, 0.0]] * queries,
        "relevant_ids": [["a"]] * queries,
        "relevant_rows": [[0]] * queries,
    }
    means = {name: float(column.mean()) for name, column in by_query.items()}
    facts = {
        "model": model,
        "identity": {},
        "task": "title2image",
        "regime": None,
        "sample_rows": None,
        "left": {"title": 1.0},
        "right": {"image": 1.0},
        "dimensions": None,
        "data": {"path": "shards", "split": "validation", "fingerprint": given.pop("fingerprint", "one")},
        "intervals": {name: [mean - 0.01, mean + 0.02] for name, mean in means.items()},
        "slices": [],
    }
    sizes = {"queries": queries, "corpus": given.pop("corpus", 100)}
    write_result(Result({**facts, **given}, {**means, **sizes, "by_cutoff": {}}, pa.table(table)), folder)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_step(run: Path, step: int, value: float, task: str = "title2image") -> None:
    """What an earlier version's training run left of one step: no results by query."""
    folder = run / "evaluation" / f"step_{step:08d}"
    write_json(folder / task / "metrics.json", {**dict.fromkeys(METRICS, value), "queries": 4, "corpus": 100})
    write_json(folder / "validation_loss" / "metrics.json", {"loss": 1.0, "rows": 100})


def models(table: Table) -> list[str]:
    return [entry.model for entry in table.entries]


def refused(*runs: Path, baseline: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        compare(runs, baseline, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def gain(comparison: Comparison, model: str, metric: str, regime: str | None = None) -> tuple[float, int]:
    """In percent, and over how many tasks."""
    found = next(gains for gains in comparison.gains if (gains.model, gains.regime) == (model, regime))
    return 100 * found.by_metric[metric].mean, found.by_metric[metric].tasks


def test_a_gain_is_the_mean_of_the_tasks_own_gains(tmp_path: Path) -> None:
    write(tmp_path / "a/one", "a", {"mrr": [0.2, 0.4]}, task="one")  # 0.3
    write(tmp_path / "a/two", "a", {"mrr": [0.8, 0.8]}, task="two")  # 0.8
    write(tmp_path / "b/one", "b", {"mrr": [0.2, 0.7]}, task="one")  # 0.45: +50 %
    write(tmp_path / "b/two", "b", {"mrr": [0.9, 0.9]}, task="two")  # 0.90: +12.5 %
    comparison = compare([tmp_path / "a", tmp_path / "b"], None, None)
    assert comparison.baseline == "a"
    assert gain(comparison, "b", "mrr") == (pytest.approx((50 + 12.5) / 2), 2)
    assert gain(comparison, "b", "ndcg@10") == (pytest.approx(0), 2)
    turned = compare([tmp_path / "a", tmp_path / "b"], "b", None)
    assert gain(turned, "a", "mrr") == (pytest.approx((-100 / 3 - 100 / 9) / 2), 2)


def test_regimes_are_not_averaged_together(tmp_path: Path) -> None:
    for model, hard, easy in (("a", 0.2, 0.5), ("b", 0.3, 0.6)):
        write(tmp_path / model / "hard", model, [hard] * 3, regime="hard")
        write(tmp_path / model / "easy", model, [easy] * 3, regime="easy")
    comparison = compare([tmp_path / "a", tmp_path / "b"], None, None)
    assert [table.title for table in comparison.tables] == ["title2image, hard", "title2image, easy"]
    assert gain(comparison, "b", "map", "hard") == (pytest.approx(50), 1)
    assert gain(comparison, "b", "map", "easy") == (pytest.approx(20), 1)


def test_a_baseline_of_zero_gives_no_gain(tmp_path: Path) -> None:
    write(tmp_path / "a", "a", {"map": [0.0, 0.0]})
    write(tmp_path / "b", "b", {"map": [0.1, 0.2]})
    (gains,) = compare([tmp_path / "a", tmp_path / "b"], None, None).gains
    assert set(gains.by_metric) == {"recall@10", "mrr", "ndcg@10"}


@pytest.mark.parametrize(
    "baseline, metric, claimed, tasks",
    [
        ("ViT-SO400M-14-SigLip", "mrr", 17.6, 3),
        ("ViT-SO400M-14-SigLip", "ndcg@10", 20.5, 3),
        ("Amazon-Titan-MultiModal", "mrr", 38.9, 3),
        ("Amazon-Titan-MultiModal", "ndcg@10", 45.1, 3),
        ("Amazon-Titan-MultiModal", "recall@10", 35.9, 2),
    ],
)
def test_marqos_claims_follow_from_its_published_table(baseline: str, metric: str, claimed: float, tasks: int) -> None:
    comparison = compare([], baseline, True)
    # The table has three digits and the claims were made from more: a tenth of a percent apart at most.
    assert gain(comparison, "Marqo-Ecommerce-L", metric, "hard") == (pytest.approx(claimed, abs=0.1), tasks)


@pytest.mark.skipif(not PUBLISHED_FILE.exists(), reason="the published table is not at hand")
def test_the_shipped_table_is_the_published_one() -> None:
    assert TABLE.read_bytes() == PUBLISHED_FILE.read_bytes()


def test_every_published_value_is_read() -> None:
    entries = load_published()
    assert sum(len(entry.metrics) for entry in entries) == len(TABLE.read_text().splitlines()) - 1 == 192
    assert all(entry.is_published for entry in entries)


def test_published_rows_stand_beside_ones_own_in_the_hard_regime_and_apart_in_the_easy_one(tmp_path: Path) -> None:
    write(tmp_path / "hard", "mine", [0.7] * 3, task=TITLE, regime="hard", corpus=ALL_ROWS)
    write(
        tmp_path / "easy", "mine", [0.9] * 3, task=f"{TITLE}_easy", regime="easy", corpus=100_000, sample_rows=100_000
    )
    hard, easy, published_easy = compare([tmp_path], "Marqo-Ecommerce-L", None).tables
    assert models(hard)[:2] == ["mine", "Marqo-Ecommerce-L"] and len(models(hard)) == 8
    assert models(easy) == ["mine"] and easy.title == f"{TITLE}, easy"
    assert "mine" not in models(published_easy) and len(models(published_easy)) == 9
    assert "sample that is not known" in published_easy.notes[0]
    assert not hard.notes


def test_nothing_is_gained_over_published_rows_of_another_sample(tmp_path: Path) -> None:
    write(tmp_path, "mine", [0.9] * 3, task=TITLE, regime="easy", corpus=100_000)
    comparison = compare([tmp_path], "Marqo-Ecommerce-L", None)
    assert "mine" not in {gains.model for gains in comparison.gains}


def test_published_rows_of_a_larger_corpus_stand_apart(tmp_path: Path) -> None:
    write(tmp_path, "mine", [0.9] * 3, task=TITLE, regime="hard", corpus=10_000)
    mine, published = compare([tmp_path], None, None).tables
    assert models(mine) == ["mine"]
    assert "982,700 products" in published.notes[0]


@pytest.mark.parametrize(
    "published, regime, shown", [(None, None, 0), (False, "hard", 0), (None, "hard", 7), (True, None, 48)]
)
def test_published_rows_are_shown_where_they_were_asked_for(
    tmp_path: Path, published: bool | None, regime: str | None, shown: int
) -> None:
    write(tmp_path, "mine", [0.7] * 3, task=TITLE, regime=regime, corpus=ALL_ROWS)
    comparison = compare([tmp_path], None, published)
    assert sum(entry.is_published for entry in comparison.entries) == shown


def test_results_on_other_data_are_not_set_level(tmp_path: Path) -> None:
    write(tmp_path / "a", "a", [0.5, 0.6])
    write(tmp_path / "b", "b", [0.7, 0.8])
    write(tmp_path / "c", "c", [0.9, 0.9], fingerprint="two")
    comparison = compare([tmp_path], None, None)
    first, other = comparison.tables
    assert (models(first), models(other)) == (["a", "b"], ["c"])
    assert "not to be set level" in other.notes[0]
    assert {gains.model for gains in comparison.gains} == {"b"}
    assert set(first.p_values) == {"b"} and not other.p_values


@pytest.mark.parametrize("change", [{"ids": ["0000", "9999", "0002"]}, {"relevant": 2}])
def test_other_queries_are_said_and_not_tested(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "a", "a", [0.5, 0.6, 0.1])
    write(tmp_path / "b", "b", [0.7, 0.8, 0.9], **change)
    (table,) = compare([tmp_path], None, None).tables
    assert not table.p_values
    assert table.notes == ["Not of the same queries as a: b. They are not tested."]


def test_other_sides_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a", "a", [0.5, 0.6])
    write(tmp_path / "b", "b", [0.7, 0.8], dimensions=64)
    (table,) = compare([tmp_path], None, None).tables
    assert table.notes == ["b has dimensions 64 where a has null."]


def test_p_values_are_of_the_paired_test_whatever_the_order_of_queries(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base, small, large = random.random(40), random.normal(0, 0.1, 40), random.random(40)
    ids = [f"{number:04d}" for number in range(40)]
    shuffled = random.permutation(40)
    write(tmp_path / "a", "a", base.tolist())
    write(tmp_path / "b", "b", (base + small).tolist())
    write(tmp_path / "c", "c", (base + large)[shuffled].tolist(), ids=[ids[i] for i in shuffled])
    (table,) = compare([tmp_path], None, None).tables
    plain = [randomization_test(base, base + change) for change in (small, large)]
    assert plain[1] < 0.001 < plain[0]
    for metric in table.metrics:
        # Holm: the smaller of two is doubled, the larger stays.
        assert table.p_values["b"][metric] == pytest.approx(plain[0])
        assert table.p_values["c"][metric] == pytest.approx(2 * plain[1])


def test_holms_correction_is_that_of_a_worked_example() -> None:
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]
    assert corrected([]) == []


def test_a_training_run_is_its_start_and_its_last_evaluated_step(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    for step, value in ((0, 0.1), (200, 0.7), (400, 0.6)):
        write_step(run, step, value)
    write_json(run / "evaluation/step_00000600.tmp/title2image/metrics.json", {"map": 0.9})
    write(tmp_path / "other", "other", [0.5] * 4)
    comparison = compare([run, tmp_path / "other"], None, None)
    (table,) = comparison.tables
    assert [(entry.model, entry.metrics["map"]) for entry in table.entries] == [
        ("mine (start)", 0.1),
        ("mine", 0.6),
        ("other", 0.5),
    ]
    assert not table.p_values
    assert gain(comparison, "mine", "map") == (pytest.approx(500), 1)
    assert any("Without results by query" in note and "mine (start), mine" in note for note in comparison.footnotes)


def test_a_training_run_with_results_by_query_is_tested(tmp_path: Path) -> None:
    for step, value in ((0, 0.1), (400, 0.6)):
        write(tmp_path / "run/evaluation" / f"step_{step:08d}" / "title2image", "ViT-B-16", [value] * 20)
    (table,) = compare([tmp_path / "run"], None, None).tables
    assert models(table) == ["run (start)", "run"]
    assert table.p_values["run"]["map"] < 0.001


def test_another_rule_of_relevance_is_another_question(tmp_path: Path) -> None:
    for name, rule in (("a", "category"), ("b", "gender")):
        folder = write(tmp_path / name, name, [0.5, 0.6])
        facts = json.loads((folder / "evaluation.json").read_text())
        write_json(folder / "evaluation.json", {**facts, "relevant": rule})
    comparison = compare([tmp_path / "a", tmp_path / "b"], None, None)
    assert [models(table) for table in comparison.tables] == [["a"], ["b"]]
    assert not any(gains.by_metric for gains in comparison.gains)


def test_two_results_of_a_model_are_both_kept_under_names_of_their_own(tmp_path: Path) -> None:
    for seed in ("one", "two"):
        write(tmp_path / seed / "title", "same", [0.5, 0.6])
        write(tmp_path / seed / "category", "same", [0.5, 0.6], task="category2image")
    comparison = compare([tmp_path / "one", tmp_path / "two"], None, None)
    names = [f"same ({tmp_path / seed})" for seed in ("one", "two")]
    assert [models(table) for table in comparison.tables] == [names, names]
    assert gain(comparison, names[1], "map") == (pytest.approx(0), 2)
    within = compare([tmp_path], None, None)
    assert [models(table) for table in within.tables] == [names, names]


def test_a_result_may_hold_others(tmp_path: Path) -> None:
    write(tmp_path, "a", [0.5, 0.6])
    write(tmp_path / "inner", "b", [0.5, 0.6])
    assert models(compare([tmp_path], None, None).tables[0]) == ["a", "b"]


def test_a_folder_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "a/title", "a", [0.5, 0.6])
    assert len(compare([tmp_path, tmp_path / "a", tmp_path / "a/title"], None, None).entries) == 1


def test_a_measured_model_with_a_published_name_is_told_from_it(tmp_path: Path) -> None:
    write(tmp_path, "Marqo-Ecommerce-L", [0.7] * 3, task=TITLE, regime="hard", corpus=ALL_ROWS)
    (table,) = compare([tmp_path], None, None).tables
    assert models(table)[:2] == [f"Marqo-Ecommerce-L ({tmp_path})", "Marqo-Ecommerce-L"]


def test_precision_is_shown_where_queries_have_many_relevant_documents(tmp_path: Path) -> None:
    write(tmp_path / "few", "a", [0.5, 0.6], task="few", relevant=10)
    write(tmp_path / "many", "a", [0.5, 0.6], task="many", relevant=11)
    write(tmp_path / "known", "a", [0.5, 0.6], task=CATEGORY, relevant=1)
    columns = {table.entries[0].task: table.metrics[1] for table in compare([tmp_path], None, None).tables}
    assert columns == {"few": "recall@10", "many": "precision@10", CATEGORY: "precision@10"}


def test_values_that_are_equal_as_shown_are_equally_good(tmp_path: Path) -> None:
    for model, value in (("a", 0.5001), ("b", 0.5004), ("c", 0.4), ("d", 0.3)):
        write(tmp_path / model, model, {"map": [value] * 2})
    (table,) = compare([tmp_path], None, None).tables
    assert [table.place(entry, "map") for entry in table.entries] == [1, 1, 2, 3]
    assert [table.place(entry, "mrr") for entry in table.entries] == [0, 0, 0, 0]


def test_the_queries_that_moved_most_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", "a", {"ndcg@10": [0.0, 0.5, 1.0, 0.5]}, ranks=[0, 4, 1, 4])
    write(tmp_path / "b", "b", {"ndcg@10": [1.0, 0.6, 0.2, 0.5]}, ranks=[1, 3, 9, 4])
    (table,) = compare([tmp_path], None, None).tables
    moved = moved_queries(table)
    assert moved is not None and moved.counts == (2, 1, 1)
    assert [(query.text, query.values, query.ranks) for query in moved.better] == [
        ("query 0000", (0.0, 1.0), (0, 1)),
        ("query 0001", (0.5, 0.6), (4, 3)),
    ]
    assert [(query.text, query.ranks) for query in moved.worse] == [("query 0002", (1, 9))]


def test_latency_is_that_of_the_model(tmp_path: Path) -> None:
    times = {"device": "cpu", "device_name": "Some CPU", "text_milliseconds": 5.14, "image_milliseconds": 5.7}
    write(tmp_path / "a/title", "a", [0.5, 0.6])
    write(tmp_path / "b/title", "b", [0.5, 0.6])
    write_json(tmp_path / "a/latency.json", {"model": "a", **times})
    write_json(tmp_path / "b/latency.json", {"model": "c", **times})
    comparison = compare([tmp_path], None, None)
    first, second = comparison.tables[0].entries
    assert first.latency and (first.latency.device, first.latency.text, first.latency.image) == ("Some CPU", 5.14, 5.7)
    assert second.latency is None
    assert comparison.footnotes[-1] == "Milliseconds for one text and one image on Some CPU: a."


def broken_file(folder: Path, name: str, text: str) -> Path:
    write(folder, "a", [0.5, 0.6])
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("metrics.json", '{"map": ', "is no result of gcl evaluate"),
        ("metrics.json", '{"map": null}', "metrics.json has map null"),
        ("metrics.json", '{"mrr": NaN}', "metrics.json has mrr nan"),
        ("metrics.json", '{"mrr": "0.5"}', "metrics.json has mrr '0.5'"),
        ("metrics.json", "[]", "holds no object"),
        ("metrics.json", '{"loss": 1}', "has none of map"),
        ("evaluation.json", "{}", "evaluation.json model: Field required"),
        ("evaluation.json", "3", "is no result of gcl evaluate (evaluation.json"),
        ("per_query.parquet", "", "is no result of gcl evaluate"),
        ("latency.json", '{"model": "a"}', "latency.json is not what gcl latency writes"),
        ("latency.json", "{", "latency.json cannot be read"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert said in refused(broken_file(tmp_path / "a", name, text))


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a/b/c/d/too_deep", "a", [0.5])
    assert "is no folder (did you mean empty?)" in refused(tmp_path / "emty")
    assert f"nothing in {tmp_path / 'empty'} was evaluated" in refused(tmp_path / "empty")
    assert "was evaluated" in refused(tmp_path / "a")
    assert "gcl compare needs folders" in refused()


def test_a_null_in_a_training_run_is_named(tmp_path: Path) -> None:
    write_step(tmp_path, 0, 0.1)
    write_json(tmp_path / "evaluation/step_00000400/title2image/metrics.json", {"map": None, "queries": 4})
    assert "step_00000400/title2image/metrics.json has map null" in refused(tmp_path)


def test_a_baseline_is_found_by_name_number_and_folder(tmp_path: Path) -> None:
    for model in ("a", "b"):
        write(tmp_path / model, f"model {model}", [0.5, 0.6])
    runs = [tmp_path / "a", tmp_path / "b"]
    assert [compare(runs, wanted, None).baseline for wanted in ("model b", "2", str(tmp_path / "b"))] == ["model b"] * 3
    assert "there are 1 model a, 2 model b" in refused(*runs, baseline="3")
    assert "(did you mean model b?)" in refused(*runs, baseline="modl b")


def test_words_are_folders_and_the_rest_is_settings(tmp_path: Path) -> None:
    (tmp_path / "lr=1").mkdir()
    words = ["runs/a", "--config-dir", "conf", str(tmp_path / "lr=1"), "published=true", "runs/b", "--help"]
    assert split_folders(words) == (
        ["runs/a", str(tmp_path / "lr=1"), "runs/b"],
        ["--config-dir", "conf", "published=true", "--help"],
    )


class Page(HTMLParser):
    """A page's tags, the addresses in it, and the text of each table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def markdown_rows(text: str) -> tuple[list[list[str]], set[str]]:
    """The cells of every table as a renderer shows them, and the kinds of what it makes of their text."""
    rows: list[list[str]] = []
    kinds: set[str] = set()
    for token in Markdown(text).parsed:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows:
            children = token.children or []
            rows[-1].append("".join(child.content for child in children if child.type != "html_inline"))
            kinds |= {child.content if child.type == "html_inline" else child.type for child in children}
    return rows, kinds


@pytest.fixture
def written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """The folder of a comparison with a hostile name in it, and what the terminal showed."""
    data = {"task": TITLE, "regime": "hard", "corpus": ALL_ROWS}
    write(tmp_path / "a", "plain", np.linspace(0, 0.8, 30).tolist(), **data)
    write(tmp_path / "b", HOSTILE + "\x1b[31m\n", np.linspace(0.2, 0.9, 30).tolist(), **data)
    run_command(lambda: main([str(tmp_path / "a"), str(tmp_path / "b"), f"output_dir={tmp_path / 'out'}"]))
    return tmp_path / "out", capsys.readouterr().out


def test_the_csv_holds_every_value(written: tuple[Path, str]) -> None:
    with (written[0] / "compare.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "model,source,task,regime,metric,value,low,high,p_value,queries,corpus,folder"
    measured = {(row["model"], row["metric"]): row for row in rows if row["source"] == "measured"}
    assert len(measured) == 2 * len(METRICS)
    assert len([row for row in rows if row["source"] == "published"]) == 7 * 4
    row = measured[HOSTILE + " [31m", "mrr"]
    assert float(row["value"]) == pytest.approx(0.55) and float(row["low"]) == pytest.approx(0.54)
    assert float(row["p_value"]) < 0.001 and measured["plain", "mrr"]["p_value"] == ""
    assert (row["task"], row["regime"], row["queries"], row["corpus"]) == (TITLE, "hard", "30", str(ALL_ROWS))
    published = next(row for row in rows if row["model"] == "Marqo-Ecommerce-L" and row["metric"] == "ndcg@10")
    assert (published["value"], published["low"], published["folder"]) == ("0.726", "", "")


def test_a_name_stays_a_name_in_markdown(written: tuple[Path, str]) -> None:
    rows, kinds = markdown_rows((written[0] / "compare.md").read_text(encoding="utf-8"))
    assert [HOSTILE + " [31m (hard)", "+37.5 % over 1 task"] in [row[:2] for row in rows]
    assert [HOSTILE + " [31m", "0.550‡ [0.540, 0.570]"] in [row[:2] for row in rows]
    assert ["Marqo-Ecommerce-L (published)", "0.682", "0.878", "0.683", "0.726"] in rows
    assert kinds <= {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "em_open",
        "em_close",
        "<u>",
        "</u>",
        "softbreak",
    }


def test_the_best_is_bold_and_the_second_underlined(written: tuple[Path, str]) -> None:
    lines = (written[0] / "compare.md").read_text(encoding="utf-8").splitlines()
    first, second = [next(line for line in lines if line.startswith(f"| Marqo-Ecommerce-{size}")) for size in "LB"]
    assert first.split(" | ")[1] == "**0.682**" and second.split(" | ")[1] == "<u>0.623</u>"


def test_the_page_stands_alone_and_a_name_stays_a_name_in_it(written: tuple[Path, str]) -> None:
    page = Page((written[0] / "compare.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "iframe", "object"}
    assert page.addresses[0] == "data:,"
    assert all((written[0] / address).is_file() for address in page.addresses[1:]), "pages beside this one"
    cells = [row[:3] for row in page.rows]
    assert ["plain", "0.400[0.390, 0.420]±0.015", "0.400[0.390, 0.420]±0.015"] in cells
    assert [HOSTILE + " [31m", "0.550‡[0.540, 0.570]±0.015", "0.550‡[0.540, 0.570]±0.015"] in cells
    assert ["Marqo-Ecommerce-B published", "0.623", "0.832"] in cells
    assert ["query 0000", "0.000 → 0.200", "1 → 1"] in cells


def test_the_terminal_shows_the_table_and_obeys_no_name(written: tuple[Path, str]) -> None:
    assert "\x1b" not in written[1]
    assert "0.550‡" in written[1] and "±0.015" in written[1]
    assert "paired randomisation test" in " ".join(written[1].split())
    assert "page: " in written[1]


def test_charts_are_sound_and_place_values_by_size(tmp_path: Path) -> None:
    for folder, model, value in (("1", "a", 0.3), ("2", HOSTILE, 0.9), ("3", "c", 0.6)):
        write(tmp_path / folder, model, [value] * 3)
    (table,) = compare([tmp_path], "c", None).tables
    charts = charts_of(table, "c")
    assert [chart.title for chart in charts] == ["mAP", "R@10", "MRR", "nDCG@10"]
    svg = ElementTree.fromstring(charts[0].svg)
    dots = {group.findtext("title", "").rpartition(": ")[0]: group.find("circle") for group in svg.findall("g")}
    at = {model: float(dot.get("cx", "nan")) for model, dot in dots.items() if dot is not None}
    assert at["a"] < at["c"] < at[HOSTILE]
    baseline = next(line for line in svg.findall("line") if line.get("class") == "baseline")
    assert float(baseline.get("x1", "nan")) == at["c"]
    low, high = map(float, re.findall(r"M([\d.]+),.*H([\d.]+)", svg.findall("g")[0].find("path").get("d"))[0])  # type: ignore[union-attr,arg-type]
    assert low < at["a"] < high and math.isclose((at["a"] - low) * 2, high - at["a"], abs_tol=0.5)


def test_an_output_that_is_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: main([str(tmp_path / "none"), f"output_dir={tmp_path / 'out'}"]))
    assert exit.value.code == 2
    assert "is a file; choose another" in capsys.readouterr().err

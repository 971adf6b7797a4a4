"""The page of an evaluation: it stands alone, and shows where one model or two find what was asked for, and why not."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_report import HOSTILE, Page

from gcl.data.record import Record
from gcl.data.shards import ShardReader
from gcl.errors import UserError
from gcl.retrieval.evaluate import Retrieved, build_result
from gcl.retrieval.hits import Judgements
from gcl.retrieval.metrics import query_metrics
from gcl.retrieval.pages.evaluation_report import write_evaluation_report
from gcl.retrieval.pages.failures import (
    CLUSTERS,
    COPIES,
    TWINS,
    Cluster,
    Failure,
    attributes_of,
    clusters_of,
    failures_of,
)
from gcl.retrieval.pages.shown_queries import QUERY, best, changed, worst
from gcl.retrieval.questions import Questions
from gcl.retrieval.result import Result
from gcl.retrieval.statistics import randomization_test

QUERIES = 60
Rows = Callable[[int], Record]
Write = Callable[[list[Result], Rows | None], Page]


@pytest.fixture(scope="module")
def records(demo_shards: Path) -> list[Record]:
    return list(ShardReader(demo_shards, "train"))


@pytest.fixture
def page(tmp_path: Path) -> Write:
    def written(results: list[Result], rows: Rows | None) -> Page:
        write_evaluation_report(tmp_path / "report.html", results, rows)
        return Page(tmp_path / "report.html")

    return written


def result_of(
    records: list[Record],
    ranks: list[int],
    model: str = "runs/mine",
    texts: list[str] | None = None,
    grades: dict[int, float] | None = None,
    seed: int = 0,
) -> Result:
    """Row i is what query i wants, and stands at ranks[i] (0: nowhere) among rows in random order.

    Args:
        grades: row -> its grade for query 0.
    """
    numbers = np.arange(len(ranks))
    random = np.random.default_rng(seed)
    retrieved = []
    for wanted, rank in enumerate(ranks):
        others = random.permutation(np.setdiff1d(np.arange(len(records)), [wanted, *(grades or {})]))
        retrieved.append(np.insert(others, rank - 1, wanted)[:100] if rank else others[:100])
    judged = Judgements(numbers, numbers, np.ones(len(ranks)))
    if grades:
        retrieved[0] = np.concatenate([[*grades], others])[:100]
        judged = Judgements(
            np.r_[numbers[1:], [0] * len(grades)],
            np.r_[numbers[1:], [*grades]],
            np.r_[np.ones(len(ranks) - 1), [*grades.values()]],
        )
    documents = np.array(retrieved)
    scores = np.tile(np.linspace(0.9, 0.1, documents.shape[1], dtype=np.float32), (len(ranks), 1))
    scores -= random.uniform(0, 0.05, (len(ranks), 1)).astype(np.float32)
    ids = pa.array([record.item_id for record in records])
    questions = Questions(
        [f"q{number}" for number in numbers],
        texts or [str(records[number].fields["title"]) for number in numbers],
        ids,
        judged,
        {"category": [str(records[number].fields["category"]) for number in numbers]},
    )
    facts = {
        "model": model,
        "identity": {"weights": "0123"},
        "task": "title2image",
        "regime": "easy",
        "sample_rows": 196,
    }
    facts |= {"left": {"title": 1.0}, "right": {"image": 1.0}, "dimensions": None, "data": {"path": "shards/mine"}}
    found = Retrieved(questions, scores, documents, query_metrics(scores, documents, judged, ids))
    return build_result(found, np.arange(len(records)), facts)


def ranks_of(good: int, seed: int = 0) -> list[int]:
    """Of QUERIES, so many have the wanted row first, the others anywhere."""
    random = np.random.default_rng(seed)
    return [1] * good + random.integers(2, 150, QUERIES - good).tolist()


def test_page_needs_no_network_and_runs_no_script(page: Write, records: list[Record]) -> None:
    shown = page([result_of(records, ranks_of(10)), result_of(records, ranks_of(30))], records.__getitem__)
    assert not shown.attributes("script")
    for tag, attributes in shown.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
                assert (value or "").startswith("data:"), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    style = shown.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in shown.source  # the browser enforces it too
    assert len(shown.source) < 3_000_000


def test_head_says_what_was_asked_of_what(page: Write, records: list[Record]) -> None:
    text = page([result_of(records, ranks_of(10))], records.__getitem__).text
    assert "runs/mine task title2image regime easy, 196 rows asks title answers image queries 60 documents 196" in text
    assert "data path shards/mine" in text


def test_every_metric_stands_with_its_interval(page: Write, records: list[Record]) -> None:
    result = result_of(records, ranks_of(30))
    shown = page([result], records.__getitem__)
    for name, label in (("ndcg@10", "nDCG@10"), ("map", "mAP"), ("err", "ERR"), ("rbp@0.9", "RBP 0.9")):
        low, high = result.facts["intervals"][name]
        assert re.search(rf"{label} [^\d].*? {result.metrics[name]:.4f} {low:.3f}–{high:.3f} ", shown.text), name


def test_two_models_stand_side_by_side_with_a_test(page: Write, records: list[Record]) -> None:
    first, second = result_of(records, ranks_of(10), "the start"), result_of(records, ranks_of(40), "runs/mine")
    text = page([first, second], records.__getitem__).text
    assert "the start baseline runs/mine second" in text
    gain = second.metrics["ndcg@10"] - first.metrics["ndcg@10"]
    assert f"+{gain:.4f} ▲ better p < 0.001" in text
    text = page([second, first], records.__getitem__).text
    assert f"−{gain:.4f} ▼ worse p < 0.001" in text


def test_difference_that_may_be_chance_is_called_so(page: Write, records: list[Record]) -> None:
    first, second = result_of(records, ranks_of(30)), result_of(records, [2, *ranks_of(30)[1:]])
    text = page([first, second], records.__getitem__).text
    p = randomization_test(first.queries["mrr"].to_numpy(), second.queries["mrr"].to_numpy())
    assert f"no clear difference p = {p:.3f}" in text
    assert "▲ better" not in text and "▼ worse" not in text


def test_queries_in_another_order_are_the_same_queries(page: Write, records: list[Record]) -> None:
    first, second = result_of(records, ranks_of(10)), result_of(records, ranks_of(40))
    turned = replace(second, queries=second.queries.take(np.arange(QUERIES)[::-1].copy()))
    assert page([first, turned], records.__getitem__).text == page([first, second], records.__getitem__).text


def test_different_queries_are_refused(page: Write, records: list[Record]) -> None:
    with pytest.raises(UserError, match="the start and runs/mine are of different queries; evaluate both"):
        page([result_of(records, [1, 2], "the start"), result_of(records, [1, 2, 3])], records.__getitem__)


def test_each_part_of_a_slice_has_its_number_its_interval_and_a_mark(page: Write, records: list[Record]) -> None:
    result = result_of(records, ranks_of(30))
    shown = page([result], records.__getitem__)
    assert len(result.facts["slices"]) > 3
    for part in result.facts["slices"]:
        low, high = part["intervals"]["ndcg@10"]
        row = f"{part['value']} {part['queries']} {part['metrics']['ndcg@10']:.3f} {low:.3f}–{high:.3f}"
        assert row in shown.text
    tracks = [a for a in shown.attributes("svg") if a.get("class") == "track"]
    assert len(tracks) == 9 + len(result.facts["slices"])
    intervals = [a for a in shown.attributes("rect") if a.get("class") == "span"]
    assert len(intervals) == len(tracks)


def test_ranks_of_the_first_relevant_product_are_counted(page: Write, records: list[Record]) -> None:
    ranks = [1, 1, 1, 2, 3, 4, 10, 11, 100, 0]
    text = page([result_of(records, ranks)], records.__getitem__).text
    expected = {"1": 3, "2–3": 2, "4–10": 2, "11–100": 2, "101–1000": 0, "not found": 1}
    assert " ".join(f"{label} {count} {10 * count:.1f} %" for label, count in expected.items()) in text


def test_worst_queries_are_the_deepest_and_best_the_highest(records: list[Record]) -> None:
    queries = result_of(records, [1, 40, 0, 1, 2, 90]).queries
    assert worst(queries, doubtful=[], count=9) == [2, 5, 1, 4]  # and none that is perfect
    assert worst(queries, doubtful=[5], count=2) == [2, 1]
    assert set(best(queries)[:2]) == {0, 3} and best(queries)[2] == 4


def with_one_first_hit(queries: pa.Table) -> pa.Table:
    """Row 100 comes first for every query."""
    hub = [[100, *rows[1:]] for rows in queries["retrieved_rows"].to_pylist()]
    return queries.set_column(queries.column_names.index("retrieved_rows"), "retrieved_rows", [hub])


def test_product_that_always_comes_first_is_shown_once(page: Write, records: list[Record]) -> None:
    result = result_of(records, [50, 60, 70, 80])
    hub = with_one_first_hit(result.queries)
    assert worst(hub, doubtful=[], count=4) == [3]
    failures = failures_of(hub, 0)
    shown = page([replace(result, queries=hub)], [Record({**r.fields, "type": "mug"}, {}) for r in records].__getitem__)
    kinds = [a for a in shown.attributes("article") if a.get("class") == "cluster card"]
    assert len([a for a in shown.attributes("div") if a.get("class") == "pair"]) == len(kinds) <= len(failures) == 4


def test_most_changed_queries_come_first(records: list[Record]) -> None:
    first, second = result_of(records, [1, 5, 90, 2, 30]).queries, result_of(records, [1, 1, 1, 5, 80]).queries
    assert changed(first, second, 1) == [2, 1]
    assert changed(first, second, -1) == [3]


def test_relevant_pictures_are_marked(page: Write, records: list[Record]) -> None:
    shown = page([result_of(records, [1, 2, 3, 60])], records.__getitem__)
    # Each but the last among the best, and the second and the third among the worst, show the wanted row.
    hits = [a for a in shown.attributes("li") if a.get("class") == "hit"]
    assert len(hits) == 3 + 2 == len([a for a in shown.attributes("span") if a.get("class") == "tick"])
    assert "nDCG@10 0.000 first relevant at rank 60" in shown.text
    assert all(a.get("alt") for a in shown.attributes("img"))
    assert "grade" not in shown.text


def test_grades_are_shown_where_there_are_degrees(page: Write, records: list[Record]) -> None:
    result = result_of(records, ranks_of(0), grades={7: 3.0, 8: 1.5})
    shown = page([result], records.__getitem__)
    assert "grade 3" in shown.text and "grade 1.5" in shown.text
    title = records[7].fields["title"]
    assert any(a["alt"] == f"{title} (relevant, grade 3)" for a in shown.attributes("img"))


def test_changed_queries_show_both_rankings_under_each_other(page: Write, records: list[Record]) -> None:
    first, second = result_of(records, [80, 1, 1, 1]), result_of(records, [1, 90, 1, 1])
    text = page([first, second], records.__getitem__).text
    better = text.split("Queries that got better")[1].split("Queries that got worse")[0]
    assert "baseline first relevant at rank 80 nDCG@10 0.000" in better
    assert "second first relevant at rank 1 nDCG@10 1.000" in better
    worse = text.split("Queries that got worse")[1].split("Worst queries")[0]
    assert "second first relevant at rank 90" in worse and "rank 80" not in worse


def row(number: int, **fields: str) -> dict[str, str]:
    return {"item_id": str(number), "title": f"product {number}", **fields}


def clusters(*pairs: tuple[dict[str, str], dict[str, str]]) -> dict[str, int]:
    """Names and sizes of the clusters of (got, wanted), among rows enough to know columns by."""
    texts = {number: text for number, text in enumerate(text for pair in pairs for text in pair)}
    failures = [Failure(0, number, 2 * number, 2 * number + 1) for number in range(len(pairs))]
    return {cluster.name: cluster.count(0) for cluster in clusters_of(failures, texts)}


def test_clusters_are_named_by_what_agrees_and_what_differs() -> None:
    shoe = {"category": "shoes", "baseColour": "black", "image.hash": "a"}
    pairs = [
        (row(2 * n, **shoe), row(2 * n + 1, **shoe | {"baseColour": "Brown", "image.hash": f"b{n}"})) for n in range(6)
    ]
    pairs += [(row(20, **shoe), row(21, **shoe | {"category": "bags", "image.hash": "c"}))]
    pairs += [(row(22, **shoe), row(23, **shoe | {"image.hash": "d"}))]
    pairs += [(row(24, **shoe), row(25, **shoe | {"category": "bags", "baseColour": "red", "image.hash": "e"}))]
    assert clusters(*pairs) == {
        "same category, other base colour": 6,
        "same base colour, other category": 1,
        "another product of the same base colour and category": 1,
        "other base colour and category": 1,
    }


def test_copies_that_nobody_marked_are_told_from_mistakes() -> None:
    same_photo = row(1, **{"image.hash": "a"}), row(2, **{"image.hash": "a"})
    same_title = row(3) | {"title": "Red  mug"}, row(4) | {"title": "red mug"}
    other_photo = row(5, **{"image.hash": "a"}) | {"title": "lamp"}, row(6, **{"image.hash": "b"}) | {"title": "lamp"}
    assert clusters(same_photo, same_title, other_photo) == {COPIES: 1, "same title, other photo": 1, TWINS: 1}
    assert Cluster(COPIES, (), []).is_doubt and not Cluster("same title, other photo", (), []).is_doubt


def test_at_most_so_many_clusters_and_copies_are_never_among_the_others() -> None:
    columns = ("category", "colour", "brand")
    pairs = []
    for mask in range(27):  # of each column: the same, another, or unknown
        kinds = [mask // 3**place % 3 for place in range(3)]
        got = {name: "x" for name in columns}
        wanted = {name: "xy"[kind] for name, kind in zip(columns, kinds, strict=True) if kind < 2}
        pairs += [(row(1000 + mask, **got), row(2000 + mask, **wanted))] * (30 - mask)
    pairs.append((row(1, **{"image.hash": "a"}), row(2, **{"image.hash": "a"})))
    found = clusters(*pairs)
    assert len(found) == CLUSTERS + 2 and found[COPIES] == 1 and list(found)[-1] == "other"
    assert sum(found.values()) == len(pairs)


def test_attributes_are_what_tells_products_apart() -> None:
    random = np.random.default_rng(0)
    rows = []
    for number in range(200):
        category = int(random.integers(12))
        attributes = {"articleCategory": f"c{category}", "department": f"d{category // 4}", "season": f"s{number % 4}"}
        attributes |= {"colour": f"k{random.integers(9)}", "year": str(2010 + number % 3), "shop": "here"}
        rows.append(row(number, note=f"one of a kind {number}", **attributes))
    # A department follows from the category, a year is a number, a shop is the same everywhere.
    assert attributes_of(rows) == ["articleCategory", "colour", "season"]


def test_only_queries_with_a_wrong_first_hit_are_failures(records: list[Record]) -> None:
    queries = result_of(records, [1, 2, 0]).queries
    assert [(f.query, f.wanted) for f in failures_of(queries, 0)] == [(1, 1), (2, 2)]


def test_clusters_are_shown_with_share_and_pairs(page: Write, records: list[Record]) -> None:
    twins = [replace(record, fields=dict(record.fields)) for record in records]
    ranks = [1] * 6 + [0] * 4
    result = result_of(twins, ranks)
    for number in (6, 7):
        twins[result.queries["retrieved_rows"][number].as_py()[0]].fields["image.hash"] = f"copy {number}"
        twins[number].fields["image.hash"] = f"copy {number}"
    shown = page([result], twins.__getitem__)
    assert "4 of 10 queries have a first product that is not relevant" in shown.text
    assert f"{COPIES} 2 (50.0 %)" in shown.text
    assert f"wanted: {twins[6].fields['title']}" in {a["alt"] for a in shown.attributes("img")}
    worst_queries = shown.text.split("Worst queries")[1].split("Best queries")[0]
    assert str(twins[6].fields["title"]) not in worst_queries and str(twins[8].fields["title"]) in worst_queries


def test_text_from_data_is_escaped(page: Write, records: list[Record]) -> None:
    hostile = [
        Record({**record.fields, "title": HOSTILE, "category": HOSTILE[:50] + str(n % 3)}, record.images)
        for n, record in enumerate(records)
    ]
    result = result_of(hostile, ranks_of(30), model=HOSTILE, texts=[HOSTILE] * QUERIES)
    shown = page([result], hostile.__getitem__)
    assert "<script" not in shown.source.lower()
    assert HOSTILE in shown.text
    assert any(a.get("title") == HOSTILE for a in shown.attributes("img"))


def test_long_queries_are_cut_and_any_script_finds_its_direction(page: Write, records: list[Record]) -> None:
    texts = ["word " * 4000, "حقيبة جلدية سوداء"]
    shown = page([result_of(records, [3, 3], texts=texts)], records.__getitem__)
    assert max(len(word) for word in re.findall(r"(?:word )+", shown.text)) <= QUERY
    assert texts[1] in shown.text
    assert all(a.get("dir") == "auto" for a in shown.attributes("h3") if a.get("title"))


def test_row_without_a_picture_keeps_its_place(page: Write, records: list[Record]) -> None:
    bare = [Record(record.fields, {}) for record in records]
    shown = page([result_of(records, [3])], bare.__getitem__)
    assert not shown.attributes("img") and "no picture" in shown.text
    assert str(records[0].fields["title"]) in shown.text


def test_task_without_rows_shows_ids(page: Write, records: list[Record]) -> None:
    result = result_of(records, [3])
    shown = page([result], None)
    assert not shown.attributes("img") and "no picture" not in shown.text
    blanks = [a["title"] for a in shown.attributes("span") if a.get("class") == "blank"]
    assert f"a relevant product: {records[0].item_id}" in blanks
    assert set(result.queries["retrieved_ids"][0].as_py()[:5]) <= set(blanks)
    assert "known by their ids only" in shown.text


def test_deleted_shards_leave_a_page_with_a_note(
    page: Write, records: list[Record], demo_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(demo_shards, folder)
    reader = ShardReader(folder, "train")
    for shard in folder.glob("*.tar"):
        shard.unlink()
    shown = page([result_of(records, [3, 1])], reader.__getitem__)
    assert not shown.attributes("img")
    assert "rows could not be read" in shown.text and "train-0000" in shown.text
    assert records[0].item_id in shown.text and "None of the products could be read." in shown.text


def test_rows_are_read_in_order_and_pictures_made_of_shown_ones_only(page: Write, records: list[Record]) -> None:
    read: list[int] = []

    def rows(number: int) -> Record:
        read.append(number)
        return records[number]

    result = result_of(records, [0] * QUERIES)
    page([result], rows)
    failures = failures_of(result.queries, 0)
    compared = {number for failure in failures for number in (failure.got, failure.wanted)}
    assert read[: len(compared)] == sorted(compared)
    assert max(Counter(read).values()) <= 2  # once to compare, once to be shown


def test_every_query_answered_leaves_nothing_to_explain(page: Write, records: list[Record]) -> None:
    text = page([result_of(records, [1] * 5)], records.__getitem__).text
    assert "0 of 5 queries have a first product that is not relevant" in text
    assert "Best queries" in text and "Worst queries" not in text

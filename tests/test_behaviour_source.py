"""A search log becomes pairs of query and product with a score that a plain count over its rows gives too."""

import csv
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcl.config import load_settings
from gcl.data.prepare.command import PrepareSettings
from gcl.data.record import Refusal, SourceRow
from gcl.data.sources.behaviour import BehaviourSource
from gcl.data.sources.catalog import CatalogSource
from gcl.errors import UserError
from gcl.parts import build

EVENTS = {"clicks": 1.0, "carts": 3.0, "purchases": 10.0}
HEADER = ["query", "item_id", "impressions", *EVENTS]

Log = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalogue of 30 products, P00 to P29, beside which logs are written."""
    (tmp_path / "shop").mkdir()
    lines = [f"P{number:02d},Hat {number},{number}.jpg,{number}.5" for number in range(30)]
    (tmp_path / "shop" / "products.csv").write_text("\n".join(["sku,title,image,price", *lines]))
    return tmp_path


def made_log(rows: int, products: int = 30, seed: int = 0) -> Log:
    """Rows of which many share query and product, some by another spelling."""
    numbers = random.Random(seed)
    log: Log = []
    for _ in range(rows):
        query = numbers.choice(["red hat", "Red  Hat ", "cap", "ÉTÉ", "e\u0301te\u0301", "blue\u00a0cap"])
        impressions = numbers.randrange(40)
        counts = {name: numbers.randrange(3) if numbers.random() < 0.3 else 0 for name in EVENTS}
        product = f"P{numbers.randrange(products):02d}"
        log.append({"query": query, "item_id": product, "impressions": impressions, **counts})
    return log


def write_log(folder: Path, log: Log, kind: str = "csv", name: str = "log") -> Path:
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pd.DataFrame(log).to_parquet(path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, log)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(log[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(log)
    return path


def behaviour(folder: Path, log: Path | str, **settings: Any) -> BehaviourSource:
    return BehaviourSource(str(log), CatalogSource(str(folder / "shop")), **settings)


def rows_of(source: BehaviourSource) -> tuple[list[SourceRow], dict[str, int]]:
    """The rows, and how many were refused by reason; the same on every reading."""
    found = list(source)
    assert len(found) == len(source) and found == list(source)
    refused = {row.reason: row.count for row in found if isinstance(row, Refusal)}
    assert len(refused) == sum(isinstance(row, Refusal) for row in found)
    return [row for row in found if isinstance(row, SourceRow)], refused


def scores_of(source: BehaviourSource) -> dict[tuple[str, str], float]:
    rows, _ = rows_of(source)
    return {(str(row.fields["item_id"]), str(row.fields["query"])): float(row.fields["score"]) for row in rows}


def plain_scores(log: Log, weights: dict[str, float], smoothing: float) -> dict[tuple[str, str], float]:
    """The same by a loop over the log: smoothed rates of each event, weighted, over the weighted rates of the log."""
    pairs: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    whole: Counter[str] = Counter()
    spelled = {"ÉTÉ": "été", "e\u0301te\u0301": "été", "blue\u00a0cap": "blue cap", "Red  Hat ": "red hat"}
    for row in log:
        counts = {name: row[name] for name in ("impressions", *weights)}
        pairs[row["item_id"], spelled.get(row["query"], row["query"])].update(counts)
        whole.update(counts)
    priors = {name: whole[name] / whole["impressions"] for name in weights}
    average = sum(weight * priors[name] for name, weight in weights.items())
    scores = {}
    for pair, counts in pairs.items():
        if any(counts[name] for name in weights):
            rates = {
                name: (counts[name] + smoothing * priors[name]) / (counts["impressions"] + smoothing)
                for name in weights
            }
            scores[pair] = sum(weight * rates[name] for name, weight in weights.items()) / average
    return scores


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_scores_are_those_of_a_plain_count(folder: Path, kind: str) -> None:
    log = made_log(2_000)
    source = behaviour(folder, write_log(folder, log, kind))
    expected = plain_scores(log, EVENTS, 20.0)
    assert 60 < len(expected) < 150
    assert scores_of(source) == pytest.approx(expected, rel=1e-12)


def test_weights_and_smoothing_are_settings(folder: Path) -> None:
    log = made_log(500)
    weights = {"clicks": 0.5, "purchases": 7.0}
    source = behaviour(folder, write_log(folder, log), weights=weights, smoothing=3)
    assert scores_of(source) == pytest.approx(plain_scores(log, weights, 3.0), rel=1e-12)


def test_a_pair_of_average_success_scores_1_and_smoothing_draws_rare_ones_there(folder: Path) -> None:
    counts = {"P00": (1000, 100), "P01": (1000, 50), "P02": (1000, 150), "P03": (1, 1)}
    log = [{"query": "hat", "item_id": name, "impressions": n, "clicks": k} for name, (n, k) in counts.items()]
    scores = scores_of(behaviour(folder, write_log(folder, log), smoothing=20))
    assert scores["P00", "hat"] == pytest.approx(1, abs=0.01)
    assert scores["P02", "hat"] > scores["P03", "hat"] > scores["P00", "hat"] > scores["P01", "hat"]
    nearly_raw = scores_of(behaviour(folder, write_log(folder, log), smoothing=1e-9))
    assert nearly_raw["P03", "hat"] == pytest.approx(1 / (301 / 3001))


def test_without_impressions_the_score_is_the_logarithm_of_the_value(folder: Path) -> None:
    log = [{"query": "hat", "item_id": "P00", "orders": 2}, {"query": "hat", "item_id": "P01", "orders": 0}]
    scores = scores_of(behaviour(folder, write_log(folder, [*log, log[0]])))
    assert scores == {("P00", "hat"): pytest.approx(3.7135720667043080)}  # ln 41


def test_a_row_is_the_catalogue_s_with_query_and_score_in_the_catalogue_s_order(folder: Path) -> None:
    log = made_log(300)
    rows, _ = rows_of(behaviour(folder, write_log(folder, log)))
    catalogue = {
        row.fields["item_id"]: row for row in CatalogSource(str(folder / "shop")) if isinstance(row, SourceRow)
    }
    for row in rows:
        product = catalogue[row.fields["item_id"]]
        assert (row.images, row.origin) == (product.images, product.origin)
        assert row.fields == {**product.fields, "query": row.fields["query"], "score": row.fields["score"]}
    order = [(int(row.origin.partition(":")[2]), row.fields["query"]) for row in rows]
    assert order == sorted(order) and len(set(order)) == len(order)
    assert behaviour(folder, folder / "log.csv").folder == (folder / "shop").resolve()


def test_what_is_lost_is_counted_by_reason(folder: Path) -> None:
    good = ["hat,P00,10,1,0,0", "hat,P01,10,1,0,0"]
    bad = {
        "product not in the catalogue": ["hat,X1,10,1,0,0", "hat,X1,10,1,0,0", "cap,X1,10,1,0,0", "hat,X2,9,9,0,0"],
        "empty query": [",P00,10,1,0,0", "   ,P00,10,1,0,0", "\u00a0,P00,10,1,0,0"],
        "empty item_id": ["hat,,10,1,0,0"],
        "bad count": ["hat,P00,10,-1,0,0", "hat,P00,many,1,0,0", "hat,P00,10,1,inf,0", "hat,P00,10,1,0,1e300"],
        "wrong number of columns": ["hat,P00,10", "hat,P00,10,1,0,0,7", "hat,P00,1"],
        "wrong encoding": ["h\xf6st,P00,10,1,0,0"],
        "bad CSV": ['"hat" x,P00,10,1,0,0'],
    }
    lines = [",".join(HEADER), *good, *(line for some in bad.values() for line in some)]
    encoded = [line.encode("latin-1" if "\xf6" in line else "utf-8") for line in lines]
    (folder / "log.csv").write_bytes(b"\r\n".join(encoded))
    rows, refused = rows_of(behaviour(folder, folder / "log.csv"))
    expected = {reason: len(some) for reason, some in bad.items()} | {"product not in the catalogue": 3}  # pairs
    assert refused == expected
    assert [row.fields["item_id"] for row in rows] == ["P00", "P01"]
    (lost,) = [
        row for row in behaviour(folder, folder / "log.csv") if isinstance(row, Refusal) and "not in" in row.reason
    ]
    assert (lost.origin, lost.detail) == ("log.csv", "3 queries for 2 products in 4 rows, such as 'X1'")


def test_lines_of_jsonl_that_are_no_objects_are_counted(folder: Path) -> None:
    good = {"query": "hat", "item_id": "P00", "impressions": 10, "clicks": 1}
    lines = [
        json.dumps(good),
        "{broken",
        "[1]",
        "7",
        json.dumps({**good, "clicks": None}),
        json.dumps({**good, "query": 5}),
    ]
    (folder / "log.jsonl").write_text("\n".join(lines))
    rows, refused = rows_of(behaviour(folder, folder / "log.jsonl"))
    assert refused == {"bad JSON": 3}
    assert [row.fields["query"] for row in rows] == ["5", "hat"]


def test_a_missing_count_is_none_at_all(folder: Path) -> None:
    (folder / "log.csv").write_text("query,item_id,impressions,clicks\nhat,P00,10,\nhat,P00,,3\nhat,P01,nan,null\n")
    full = folder / "full.csv"
    full.write_text("query,item_id,impressions,clicks\nhat,P00,10,3\nhat,P01,0,0\n")
    rows, refused = rows_of(behaviour(folder, folder / "log.csv"))
    assert rows == rows_of(behaviour(folder, full))[0] and len(rows) == 1 and not refused
    frame = pd.read_csv(folder / "log.csv")  # whole numbers with gaps are floats, gaps are NaN
    frame.to_parquet(folder / "log.parquet")
    assert rows_of(behaviour(folder, folder / "log.parquet")) == (rows, {})


def test_ids_are_compared_as_text_however_they_are_stored(folder: Path) -> None:
    ids = [7, 12, 2**53 + 1]
    catalogue = folder / "numbers.parquet"
    pq.write_table(pa.table({"id": ids, "title": ["Hat"] * 3, "image": ["a.jpg"] * 3}), catalogue)
    log = [{"query": "hat", "item_id": number, "clicks": 1} for number in ids]
    as_float = [{**row, "item_id": float(row["item_id"])} for row in log[:2]]
    files = [write_log(folder, log, kind, "whole") for kind in ("csv", "jsonl", "parquet")]
    files += [write_log(folder, as_float, kind, "float") for kind in ("jsonl", "parquet")]
    for file in files:
        rows, refused = rows_of(BehaviourSource(str(file), CatalogSource(str(catalogue))))
        assert [row.fields["item_id"] for row in rows] == [str(number) for number in ids[: len(rows)]]
        assert len(rows) == (3 if "whole" in file.name else 2) and not refused


def test_a_log_may_be_many_files_of_any_kind(folder: Path) -> None:
    log = made_log(600)
    (folder / "logs" / "old").mkdir(parents=True)
    write_log(folder / "logs", log[:100], "csv", "a")
    turned = [dict(reversed(row.items())) | {"user": "me"} for row in log[100:200]]
    write_log(folder / "logs", turned, "csv", "b[1]")
    write_log(folder / "logs", log[200:350], "parquet", "c")
    write_log(folder / "logs" / "old", log[350:500], "jsonl", "d")
    write_log(folder / "logs" / "old", log[500:], "tsv", "it's")
    (folder / "logs" / "empty.csv").write_text("")
    (folder / "logs" / "day_without_a_search.csv").write_text(",".join(HEADER) + "\n")
    found = scores_of(behaviour(folder, folder / "logs" / "**" / "*.*"))
    assert found == pytest.approx(plain_scores(log, EVENTS, 20.0), rel=1e-12)
    (folder / "logs" / "z.csv").write_text("query,item_id,clicks\nhat,P00,1\n")
    with pytest.raises(UserError, match="z.csv has no column 'impressions', which other files of the log have"):
        behaviour(folder, folder / "logs" / "*.csv")


def test_columns_are_guessed_or_named(folder: Path) -> None:
    log = [{"Search Term": "hat", "sku": "P01", "product_id": "P02", "orders": 1, "wishes": 2}]
    path = write_log(folder, log)
    assert list(scores_of(behaviour(folder, path))) == [("P01", "hat")]
    named = behaviour(
        folder, path, columns={"item_id": "product_id", "favourites": "wishes"}, weights={"favourites": 4.5}
    )
    assert scores_of(named) == {("P02", "hat"): pytest.approx(2.302585092994046)}  # ln 10


def test_pairs_with_too_little_evidence_are_left_out(folder: Path) -> None:
    counts = {"P00": (100, 5), "P01": (100, 0), "P02": (4, 2), "P03": (3, 0)}
    log = [{"query": "hat", "item_id": name, "impressions": n, "clicks": k} for name, (n, k) in counts.items()]
    path = write_log(folder, log)

    def kept(**settings: Any) -> list[str]:
        rows, refused = rows_of(behaviour(folder, path, **settings))
        assert not refused
        return [str(row.fields["item_id"]) for row in rows]

    assert kept() == ["P00", "P02"]
    assert kept(min_events=3) == ["P00"]
    assert kept(min_events=0) == ["P00", "P01", "P02", "P03"]
    assert kept(min_impressions=4, min_events=0) == ["P00", "P01", "P02"]


def test_a_product_listed_twice_is_its_first_row_and_one_left_out_is_not_lost(folder: Path) -> None:
    table = folder / "shop" / "products.csv"
    table.write_text("id,title,image,price\n,None,a.jpg,9\nP0\nP1,Hat,a.jpg,9\nP1,Cap,b.jpg,9\nP2,Bag,c.jpg,1\n")
    path = write_log(folder, [{"query": "hat", "item_id": f"P{number}", "clicks": 1} for number in (0, 1, 2, 3)])
    rows, refused = rows_of(BehaviourSource(str(path), CatalogSource(str(table), where="price > 5")))
    assert [row.origin for row in rows] == ["products.csv:4"] and refused == {"product not in the catalogue": 2}


def test_a_product_that_cannot_be_used_is_refused_with_each_of_its_queries(folder: Path) -> None:
    (folder / "shop" / "products.csv").write_bytes(b"id,title,image\nP1,St\xf6vel,a.jpg\nP2,Hat,b.jpg\n")
    log = [{"query": query, "item_id": name, "clicks": 1} for query in ("hat", "cap") for name in ("P1", "P2")]
    found = list(source := behaviour(folder, write_log(folder, log)))
    assert len(source) == 4
    assert [row.reason if isinstance(row, Refusal) else row.fields["query"] for row in found] == [
        "wrong encoding", "wrong encoding", "cap", "hat",
    ]  # fmt: skip


def test_the_join_needs_no_more_memory_than_it_is_given(folder: Path) -> None:
    numbers = random.Random(1)
    items = [f"P{number % 30:02d}" for number in range(400_000)]
    queries = [f"{numbers.random()} a query that is long enough to fill the memory of the join" for _ in items]
    pq.write_table(pa.table({"query": queries, "item_id": items, "clicks": [1] * len(items)}), folder / "log.parquet")
    source = behaviour(folder, folder / "log.parquet", memory_megabytes=100)
    assert len(source) == len(set(zip(queries, items, strict=True)))
    first = next(iter(source))
    assert isinstance(first, SourceRow) and first.fields["query"] == min(queries[::30])


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ("query,item_id,clicks\nhat,P00,1\n", {"smoothing": 0}, "smoothing 0 must be above 0"),
        ("query,item_id,clicks\nhat,P00,1\n", {"memory_megabytes": 10}, "at least 100"),
        ("query,item_id,clicks\nhat,P00,1\n", {"weights": {"clicks": -1}}, "numbers from 0 up"),
        ("query,item_id,clicks\nhat,P00,1\n", {"weights": {"clicks": 0}}, "one of them above 0"),
        (
            "query,item_id,clicks\nhat,P00,1\n",
            {"weights": {"carts": 1}},
            "no column for carts; it has query, item_id, cl",
        ),
        ("query,item_id,clicks\nhat,P00,1\n", {"min_impressions": 5}, "needs impressions"),
        ("query,item_id,clicks\nhat,P00,1\n", {"columns": {"click": "clicks"}}, "columns.click is no field"),
        ("query,item_id,clicks\nhat,P00,1\n", {"columns": {"clicks": "clik"}}, r"did you mean clicks\?"),
        (
            "query,item_id,dwell\nhat,P00,1\n",
            {},
            "no column for clicks or carts or purchases; it has query, item_id, dw",
        ),
        ("text,item_id,clicks\nhat,P00,1\n", {}, "no column for query"),
        ("query,place,clicks\nhat,P00,1\n", {}, "no column for item_id"),
        ("", {}, "holds no search log"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_in_one_line(
    folder: Path, content: str, settings: dict[str, Any], said: str
) -> None:
    (folder / "log.csv").write_text(content)
    with pytest.raises(UserError, match=said) as error:
        behaviour(folder, folder / "log.csv", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("query,item_id,impressions,clicks\nhat,P00,0,1\n", "counts 0 impressions and events of value 1"),
        ("query,item_id,impressions,clicks\nhat,P00,9,0\n", "counts 9 impressions and events of value 0"),
        (
            "query,item_id,clicks\nhat,P00,0\n",
            "no query of log.csv leads to a product of .*the log counts too few events",
        ),
        ("query,item_id,clicks\nhat,A-00,1\n", "no query of log.csv leads to a product of .*in 1 rows, such as 'A-00'"),
    ],
)
def test_a_log_without_a_pair_is_refused_in_one_line(folder: Path, content: str, said: str) -> None:
    (folder / "log.csv").write_text(content)
    with pytest.raises(UserError, match=said) as error:
        len(behaviour(folder, folder / "log.csv"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_table_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        behaviour(folder, folder / "absent.csv")
    with pytest.raises(UserError, match="holds no search log"):
        behaviour(folder, folder / "*.parquet")
    titles = pa.array([b"St\xf6vel", b"hat"]).view(pa.string())
    pq.write_table(pa.table({"query": titles, "item_id": ["P00", "P01"], "clicks": [1, 1]}), folder / "log.parquet")
    with pytest.raises(UserError, match="log.parquet cannot be joined to products.csv: .*UTF-?8") as error:
        len(behaviour(folder, folder / "log.parquet"))
    assert "\n" not in str(error.value)


def test_the_command_line_makes_the_source(folder: Path) -> None:
    path = write_log(folder, made_log(100))
    arguments = [f"source.path={path}", f"source.catalog.path={folder / 'shop'}", "source.catalog.where='price > 9'"]
    arguments += ["source.weights={clicks: 2}", "output_dir=unused", "source=behaviour"]
    source = build(load_settings("prepare", PrepareSettings, arguments)["source"])
    assert isinstance(source, BehaviourSource) and source.weights == {"clicks": 2.0}
    assert all(float(row.fields["price"]) > 9 for row in rows_of(source)[0])

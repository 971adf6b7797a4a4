"""Embeddings, ids and judgements from files: every format gives the same numbers, every mistake one line."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval
import torch

from gcl.errors import UserError
from gcl.retrieval.metrics import CUTOFFS, query_metrics
from gcl.retrieval.precomputed.task import Precomputed, PrecomputedTask
from gcl.retrieval.search import search

GCL_RUNS = Path(__file__).resolve().parents[2] / "shared" / "data" / "gcl_evaluator"

QUERIES = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]], np.float32)
CORPUS = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1]], np.float32)
QUERY_IDS = ["007", "a b", "3"]
DOCUMENT_IDS = ["0001", "1", " inner  space ", "d,e", 'd"f']
QRELS = {"007": {"0001": 2, "1": 1}, "a b": {" inner  space ": 1, "d,e": 3, "1": 0}, "3": {'d"f': 1, "0001": -1}}


def save_pt(path: Path, held: Any) -> None:
    torch.save(held, path)


def save_lists(path: Path, array: np.ndarray, column: pa.DataType) -> None:
    """Embeddings as a Parquet column, in row groups of two."""
    values = pa.array(list(array), pa.list_(pa.float32())).cast(column)
    pq.write_table(pa.table({"id": list(range(len(array))), "embedding": values}), path, row_group_size=2)


EMBEDDING_FILES: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "npy": ("npy", np.save),
    "fortran_order": ("npy", lambda path, array: np.save(path, np.asfortranarray(array))),
    "float64": ("npy", lambda path, array: np.save(path, array.astype(np.float64))),
    "tensor": ("pt", lambda path, array: save_pt(path, torch.from_numpy(array))),
    "before_zip": ("pt", lambda p, array: torch.save(torch.from_numpy(array), p, _use_new_zipfile_serialization=False)),
    "row_tensors": ("pt", lambda path, array: save_pt(path, [torch.from_numpy(row.copy()) for row in array])),
    "tables_of_one_row": ("pt", lambda path, array: save_pt(path, list(torch.from_numpy(array).split(1)))),
    "dict": ("pt", lambda path, array: save_pt(path, {"embeddings": torch.from_numpy(array), "model": "b"})),
    "lists": ("parquet", lambda path, array: save_lists(path, array, pa.list_(pa.float32()))),
    "double_lists": ("parquet", lambda path, array: save_lists(path, array, pa.large_list(pa.float64()))),
    "fixed_lists": ("parquet", lambda path, array: save_lists(path, array, pa.list_(pa.float32(), array.shape[1]))),
}
ID_FILES: dict[str, tuple[str, Callable[[Path, list[str]], None]]] = {
    "json": ("json", lambda path, ids: path.write_text(json.dumps(ids)) and None),
    "txt": ("txt", lambda path, ids: path.write_bytes("\n".join(ids).encode()) and None),
    "windows_txt": (
        "txt",
        lambda p, ids: p.write_bytes(b"\xef\xbb\xbf" + "".join(f"{i}\r\n" for i in ids).encode()) and None,
    ),
    "npy": ("npy", lambda path, ids: np.save(path, np.array(ids))),
    "bytes_npy": ("npy", lambda path, ids: np.save(path, np.array([one.encode() for one in ids]))),
    "parquet": ("parquet", lambda path, ids: pq.write_table(pa.table({"score": [0.5] * len(ids), "id": ids}), path)),
    "dictionary": (
        "parquet",
        lambda path, ids: pq.write_table(pa.table({"id": pa.array(ids).dictionary_encode()}), path),
    ),
}


def qrels_table(names: tuple[str, str, str] = ("query-id", "corpus-id", "score")) -> pa.Table:
    rows = [(query, document, grade) for query, judged in QRELS.items() for document, grade in judged.items()]
    return pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=list(names))


def write_separated(path: Path, delimiter: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["query-id", "corpus-id", "score"])
        writer.writerows(zip(*qrels_table().to_pydict().values(), strict=True))


QREL_FILES: dict[str, Callable[[Path], None]] = {
    "json": lambda path: path.write_text(json.dumps(QRELS)) and None,
    "tsv": lambda path: write_separated(path, "\t"),
    "csv": lambda path: write_separated(path, ","),
    "parquet": lambda path: pq.write_table(qrels_table(("query_id", "corpus_id", "score")), path),
}


@pytest.fixture
def task(tmp_path: Path) -> PrecomputedTask:
    """Three queries, five documents."""
    np.save(tmp_path / "queries.npy", QUERIES)
    np.save(tmp_path / "corpus.npy", CORPUS)
    for name, ids in (("query_ids", QUERY_IDS), ("corpus_ids", DOCUMENT_IDS)):
        (tmp_path / f"{name}.json").write_text(json.dumps(ids))
    (tmp_path / "qrels.json").write_text(json.dumps(QRELS))
    names = ("queries.npy", "query_ids.json", "corpus.npy", "corpus_ids.json", "qrels.json")
    return PrecomputedTask(*(str(tmp_path / name) for name in names))


def judged(loaded: Precomputed) -> set[tuple[str, str | None, float]]:
    """The judgements by id again; a document that the corpus lacks is None."""
    questions = loaded.questions
    ids = dict(enumerate(questions.document_ids.to_pylist()))
    found = questions.judgements
    return {
        (questions.query_ids[query], ids.get(document), grade)
        for query, document, grade in zip(
            found.queries.tolist(), found.documents.tolist(), found.grades.tolist(), strict=True
        )
    }


def measured(loaded: Precomputed) -> dict[str, float]:
    """The metrics of the whole path."""
    scores, retrieved = search(loaded.queries, loaded.corpus, 1000)
    questions = loaded.questions
    metrics = query_metrics(scores.numpy(), retrieved.numpy(), questions.judgements, questions.document_ids)
    return {**{name: float(values.mean()) for name, values in metrics.values.items()}, **metrics.by_cutoff}


def refusal(task: PrecomputedTask) -> str:
    """The one line that loading ends with."""
    with pytest.raises(UserError) as error:
        task.load()
    message = str(error.value)
    assert "\n" not in message
    return message


EXPECTED = {
    ("007", "0001", 2.0),
    ("007", "1", 1.0),
    ("a b", " inner  space ", 1.0),
    ("a b", "d,e", 3.0),
    ("3", 'd"f', 1.0),
}


def test_ids_become_numbers_and_only_grades_above_zero_are_relevant(task: PrecomputedTask) -> None:
    loaded = task.load()
    assert loaded.questions.query_ids == QUERY_IDS
    assert loaded.questions.document_ids.to_pylist() == DOCUMENT_IDS
    assert judged(loaded) == EXPECTED
    assert loaded.queries.dtype == torch.float32 and loaded.queries.numpy().tolist() == QUERIES.tolist()
    assert loaded.corpus.block(1, 3).numpy().tolist() == CORPUS[1:3].tolist()
    assert loaded.warnings == []
    assert loaded.facts["corpus"] == task.corpus and loaded.facts["qrels"] == task.qrels
    json.dumps(loaded.facts)


@pytest.mark.parametrize("name", EMBEDDING_FILES)
def test_every_format_of_embeddings_holds_the_same(task: PrecomputedTask, tmp_path: Path, name: str) -> None:
    suffix, save = EMBEDDING_FILES[name]
    queries, corpus = tmp_path / f"other_queries.{suffix}", tmp_path / f"other_corpus.{suffix}"
    save(queries, QUERIES)
    save(corpus, CORPUS)
    loaded = replace(task, queries=str(queries), corpus=str(corpus)).load()
    assert torch.equal(loaded.queries, torch.from_numpy(QUERIES))
    assert torch.equal(loaded.corpus.block(0, 5), torch.from_numpy(CORPUS))
    assert loaded.corpus.rows(torch.tensor([4, 0])).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_as_float32(task: PrecomputedTask, tmp_path: Path, dtype: torch.dtype) -> None:
    half = torch.from_numpy(CORPUS).to(dtype)
    torch.save(half, tmp_path / "half.pt")
    assert torch.equal(replace(task, corpus=str(tmp_path / "half.pt")).load().corpus.block(0, 5), half.float())


def test_a_parquet_column_of_float16_stays_float16(task: PrecomputedTask, tmp_path: Path) -> None:
    save_lists(tmp_path / "half.parquet", CORPUS, pa.list_(pa.float16()))
    loaded = replace(task, corpus=str(tmp_path / "half.parquet")).load()
    assert loaded.corpus.array.dtype == np.float16  # type: ignore[attr-defined]
    assert torch.equal(loaded.corpus.block(0, 5), torch.from_numpy(CORPUS.astype(np.float16)).float())


@pytest.mark.parametrize("name", ID_FILES)
def test_every_format_of_ids_holds_the_same(task: PrecomputedTask, tmp_path: Path, name: str) -> None:
    suffix, save = ID_FILES[name]
    queries, corpus = tmp_path / f"other_query_ids.{suffix}", tmp_path / f"other_ids.{suffix}"
    save(queries, QUERY_IDS)
    save(corpus, DOCUMENT_IDS)
    loaded = replace(task, query_ids=str(queries), corpus_ids=str(corpus)).load()
    assert loaded.questions.query_ids == QUERY_IDS
    assert loaded.questions.document_ids.to_pylist() == DOCUMENT_IDS
    assert loaded.questions.document_ids.type == pa.string()


def test_numbers_as_ids_become_their_text(task: PrecomputedTask, tmp_path: Path) -> None:
    numbers = [10, 11, 12, 13, 14]
    (tmp_path / "ids.json").write_text(json.dumps([10, "11", 12, 13, 14]))
    np.save(tmp_path / "ids.npy", np.array(numbers))
    pq.write_table(pa.table({"id": numbers}), tmp_path / "ids.parquet")
    (tmp_path / "numbers.json").write_text(json.dumps({"007": {"12": 1}}))
    for name in ("ids.json", "ids.npy", "ids.parquet"):
        loaded = replace(task, corpus_ids=str(tmp_path / name), qrels=str(tmp_path / "numbers.json")).load()
        assert judged(loaded) == {("007", "12", 1.0)}


@pytest.mark.parametrize("name", QREL_FILES)
def test_every_format_of_judgements_holds_the_same(task: PrecomputedTask, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"other.{name}"
    QREL_FILES[name](path)
    assert judged(replace(task, qrels=str(path)).load()) == EXPECTED


def test_trec_s_text_holds_the_same(task: PrecomputedTask, tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_bytes(b'007 0 0001 2\r\n007\tQ0\t1  1\r\n3 0 d"f 1\r\n\r\n3 0 0001 -1\r\n')
    loaded = replace(task, qrels=str(tmp_path / "qrels.txt")).load()
    assert judged(loaded) == {one for one in EXPECTED if one[0] != "a b"}


def test_embeddings_and_ids_may_be_columns_of_one_file(task: PrecomputedTask, tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    vectors = {
        name: pa.array(list(sign * CORPUS), pa.list_(pa.float32())) for name, sign in (("text", -1), ("image", 1))
    }
    pq.write_table(pa.table({"sku": DOCUMENT_IDS, "title": DOCUMENT_IDS[::-1], **vectors}), path)
    loaded = replace(task, corpus=f"{path}:image", corpus_ids=f"{path}:sku").load()
    assert torch.equal(loaded.corpus.block(0, 5), torch.from_numpy(CORPUS)) and judged(loaded) == EXPECTED
    assert f"several columns of lists of floats; name one: {path}:text" in refusal(replace(task, corpus=str(path)))
    assert "did you mean image?" in refusal(replace(task, corpus=f"{path}:imag"))
    assert "names one column; judgements are three" in refusal(
        replace(task, corpus=f"{path}:text", qrels=f"{path}:sku")
    )
    assert f"{path}:sku has no column of lists of floats" in refusal(replace(task, corpus=f"{path}:sku"))


def test_a_prefix_is_compared_as_unit_vectors(task: PrecomputedTask) -> None:
    loaded = replace(task, dimensions=2).load()
    expected = torch.nn.functional.normalize(torch.from_numpy(CORPUS)[:, :2], dim=1)
    assert loaded.corpus.dimensions == 2 and loaded.queries.shape == (3, 2)
    assert torch.equal(loaded.corpus.block(0, 5), expected)
    assert torch.equal(loaded.corpus.rows(torch.tensor([3, 1])), expected[[3, 1]])
    assert loaded.warnings == [f"1 of 5 rows of {task.corpus} are all zeros and never found"]  # (0, 0, 1)
    assert "task dimensions 4 are more than the embeddings' 3" in refusal(replace(task, dimensions=4))
    with pytest.raises(UserError, match="at least 1"):
        replace(task, dimensions=0)


def test_lengths_are_told_and_taken_out_only_when_asked(task: PrecomputedTask) -> None:
    np.save(task.corpus, CORPUS * np.array([[1], [1], [3], [1], [0.5]], np.float32))
    loaded = task.load()
    assert loaded.corpus.block(2, 3).tolist() == [[0, 3, 0]]
    assert [line for line in loaded.warnings if "0.5 to 3 long" in line and "task.normalize=true" in line]
    normalized = replace(task, normalize=True).load()
    assert torch.allclose(normalized.corpus.block(0, 5), torch.from_numpy(CORPUS))
    assert normalized.warnings == []


def test_a_query_without_positives_is_left_out_of_the_means(task: PrecomputedTask) -> None:
    Path(task.qrels).write_text(json.dumps({"3": {"0001": 1}, "007": {"0001": 0}}))
    loaded = task.load()
    assert loaded.questions.query_ids == ["3"]
    assert loaded.queries.tolist() == QUERIES[2:].tolist()
    assert loaded.warnings == ["2 of 3 queries have no relevant document and are left out"]
    assert measured(loaded)["mrr"] == pytest.approx(1 / 3)  # document 4 scores 0.8, document 3 0.64, document 0 0.6
    Path(task.qrels).write_text(json.dumps({"3": {"0001": 0}}))
    assert "no query has a relevant document" in refusal(task)


def test_the_text_of_a_query_is_its_id_without_gcl_s_separators(task: PrecomputedTask) -> None:
    ids = ["red shirt_{!@#~}_", "red_{!@#~}_shirt_{!@#~}_", "3"]
    Path(task.query_ids).write_text(json.dumps(ids))
    Path(task.qrels).write_text(json.dumps({one: {"1": 1} for one in ids}))
    assert task.load().questions.texts == ["red shirt", "red shirt", "3"]


def test_judgements_of_unknown_queries_are_ignored_and_counted(task: PrecomputedTask) -> None:
    Path(task.qrels).write_text(json.dumps({**QRELS, "other": {"1": 1, "0001": 1}, "another": {"1": 1}}))
    loaded = task.load()
    assert judged(loaded) == EXPECTED
    assert loaded.warnings == ["2 queries of task.qrels are not in task.query_ids and are ignored"]


def test_lost_leading_zeros_are_an_error_and_not_metrics_of_zero(task: PrecomputedTask) -> None:
    Path(task.corpus_ids).write_text(json.dumps(["00017", "00018", "00019", "00020", "00021"]))
    Path(task.qrels).write_text(json.dumps({"007": {"17": 1}, "3": {"18": 1}}))
    message = refusal(task)
    assert "none of the relevant documents is in task.corpus_ids" in message
    assert "'17'" in message and "'00017'" in message and "leading zeros" in message
    Path(task.query_ids).write_text(json.dumps(["7", "8", "9"]))
    assert "such as '007'" in refusal(task) and "such as '7'" in refusal(task)


def test_relevant_documents_outside_the_corpus_count_as_in_trec_eval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    queries, corpus = (rng.integers(-2, 3, (rows, 5)).astype(np.float32) for rows in (6, 40))
    queries[:, 0] = 1  # no row of zeros
    corpus[:, 0] = 1
    query_ids, ids = [f"q{i}" for i in range(6)], [str(number) for number in rng.permutation(99)[:40]]
    qrels = {q: {ids[i]: int(rng.integers(0, 4)) for i in rng.permutation(40)[:9]} | {ids[0]: 1} for q in query_ids}
    qrels["q1"] |= {"gone": 3, "away": 1}
    qrels["q2"] |= {"gone": 2}
    qrels["q4"] = {"lost": 1}
    task = PrecomputedTask(*(str(tmp_path / name) for name in ("q.npy", "q.json", "c.npy", "c.json", "qrels.json")))
    np.save(task.queries, queries)
    np.save(task.corpus, corpus)
    for path, content in ((task.query_ids, query_ids), (task.corpus_ids, ids), (task.qrels, qrels)):
        Path(path).write_text(json.dumps(content))

    loaded = task.load()
    assert loaded.questions.judgements.documents.max() == 42
    assert [line for line in loaded.warnings if line.startswith("3 of ") and "never found" in line]
    scores = queries @ corpus.T
    run = {
        q: {one: float(score) for one, score in zip(ids, row, strict=True)}
        for q, row in zip(query_ids, scores, strict=True)
    }
    names = {"map": "map_cut", "ndcg": "ndcg_cut", "recall": "recall", "precision": "P"}
    cutoffs = ",".join(map(str, CUTOFFS))
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {f"{name}.{cutoffs}" for name in names.values()})
    theirs = list(evaluator.evaluate(run).values())
    ours = measured(loaded)
    for name, their_name in names.items():
        for k in CUTOFFS:
            expected = np.mean([query[f"{their_name}_{k}"] for query in theirs])
            assert ours[f"{name}@{k}"] == pytest.approx(expected, abs=1e-9), f"{name}@{k}"


def test_rows_of_zeros_in_the_corpus_are_told_and_in_the_queries_refused(task: PrecomputedTask) -> None:
    np.save(task.corpus, CORPUS * np.array([[1], [0], [1], [0], [1]], np.float32))
    assert task.load().warnings == [f"2 of 5 rows of {task.corpus} are all zeros and never found"]
    np.save(task.corpus, CORPUS * 0)
    assert "is all zeros" in refusal(task)
    np.save(task.queries, QUERIES * np.array([[1], [0], [1]], np.float32))
    assert "row 1 ('a b') is all zeros" in refusal(task)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [False, True])
def test_an_embedding_that_is_not_finite_is_named(task: PrecomputedTask, value: float, normalize: bool) -> None:
    corpus = CORPUS.copy()
    corpus[3, 1] = value
    np.save(task.corpus, corpus)
    assert f"{task.corpus} row 3 ('d,e') holds NaN, infinity" in refusal(replace(task, normalize=normalize))
    queries = QUERIES.copy()
    queries[0, 2] = value
    np.save(task.queries, queries)
    assert f"{task.queries} row 0 ('007') holds NaN, infinity" in refusal(replace(task, normalize=normalize))


def test_what_is_looked_at_block_by_block_is_named_by_its_row(
    task: PrecomputedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcl.retrieval.precomputed.task.LOOKED_AT", 6)  # two rows
    assert task.load().warnings == []
    corpus = CORPUS.copy()
    corpus[4, 0] = np.nan
    np.save(task.corpus, corpus)
    assert "row 4 ('d\"f')" in refusal(task)


def test_a_null_in_a_parquet_embedding_is_named(task: PrecomputedTask, tmp_path: Path) -> None:
    for row, expected in (
        ([1.0, None, 0.0], "row 1 ('1') holds NaN"),
        ([1.0], "row 1 has 1 values"),
        (None, "row 1 has 0"),
    ):
        rows = pa.array([CORPUS[0].tolist(), row, *CORPUS[2:].tolist()], pa.list_(pa.float32()))
        pq.write_table(pa.table({"e": rows}), tmp_path / "corpus.parquet")
        assert expected in refusal(replace(task, corpus=str(tmp_path / "corpus.parquet")))


@pytest.mark.parametrize(
    ("field", "ids", "expected"),
    [
        ("query_ids", ["a", "b", "a"], "has the id 'a' in row 0 and in row 2"),
        ("corpus_ids", ["a", "b", "c", "b", "a"], "has the id 'b' in row 1 and in row 3"),
        ("corpus_ids", ["a", "b", "", "c", "d"], "has no id in row 2"),
        ("corpus_ids", ["a", "b"], "has 5 rows and"),
        ("corpus_ids", ["a", "b", None], "something else than a list of texts"),
        ("corpus_ids", {"a": 1}, "something else than a list of texts"),
    ],
)
def test_ids_that_do_not_fit_are_refused(task: PrecomputedTask, field: str, ids: Any, expected: str) -> None:
    Path(getattr(task, field)).write_text(json.dumps(ids))
    message = refusal(task)
    assert expected in message and getattr(task, field) in message


@pytest.mark.parametrize("field", ["queries", "query_ids", "corpus", "corpus_ids", "qrels"])
def test_a_file_that_is_missing_or_of_no_known_format_is_named(task: PrecomputedTask, field: str) -> None:
    path = Path(getattr(task, field))
    assert f"task.{field}={path.parent}/data.bin is of no known format" in refusal(
        replace(task, **{field: str(path.parent / "data.bin")})
    )
    path.unlink()
    assert f"task.{field}={path}: there is no such file" in refusal(task)


@pytest.mark.parametrize("suffix", ["npy", "pt", "parquet"])
@pytest.mark.parametrize("content", [b"", b"no embeddings at all", b"\x93NUMPY", b"PK\x03\x04"])
def test_a_broken_file_of_embeddings_is_one_line(task: PrecomputedTask, suffix: str, content: bytes) -> None:
    path = Path(task.corpus).with_suffix(f".{suffix}")
    path.write_bytes(content)
    assert str(path) in refusal(replace(task, corpus=str(path)))


@pytest.mark.parametrize("suffix", ["json", "npy", "parquet", "txt"])
def test_a_broken_file_of_ids_or_judgements_is_one_line(task: PrecomputedTask, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b'{"a": \xff')
    assert str(path) in refusal(replace(task, corpus_ids=str(path)))
    if suffix != "npy":
        assert str(path) in refusal(replace(task, qrels=str(path)))


class Surprise:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SURPRISE"],)


def test_nothing_in_a_file_is_ever_run(task: PrecomputedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURPRISE", str(tmp_path / "surprise"))
    np.save(tmp_path / "pickled.npy", np.array([Surprise()], object), allow_pickle=True)
    torch.save([Surprise()], tmp_path / "pickled.pt")
    for name in ("pickled.npy", "pickled.pt"):
        message = refusal(replace(task, corpus=str(tmp_path / name)))
        assert name in message and "weights_only" not in message
    assert "pickled.npy" in refusal(replace(task, corpus_ids=str(tmp_path / "pickled.npy")))
    assert not (tmp_path / "surprise").exists()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((0, 3), np.float32), "is empty"),
        (np.ones(3, np.float32), "has the shape (3,)"),
        (np.ones((5, 3, 1), np.float32), "has the shape (5, 3, 1)"),
        (np.ones((5, 4), np.float32), "3 dimensions"),
        (np.ones((5, 3), np.int8), "is of type int8"),
        (np.ones((5, 3), ">f4"), "is of type >f4"),
    ],
)
def test_embeddings_that_are_no_table_of_floats_are_refused(
    task: PrecomputedTask, array: np.ndarray, expected: str
) -> None:
    np.save(task.corpus, array)
    message = refusal(task)
    assert expected in message and task.corpus in message


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"a": torch.ones(5, 3), "b": torch.ones(5, 3)}, "a dict with 2 tensors"),
        ([torch.ones(3), torch.ones(2)], "save equal rows"),
        ([1.0, 2.0], "save equal rows"),
        ([], "save equal rows"),
        ("text", "holds a str"),
    ],
)
def test_a_pt_that_holds_something_else_is_refused(
    task: PrecomputedTask, tmp_path: Path, held: Any, expected: str
) -> None:
    torch.save(held, tmp_path / "corpus.pt")
    assert expected in refusal(replace(task, corpus=str(tmp_path / "corpus.pt")))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("q.json", '{"3": {"1": "high"}}', "a grade for the query '3' that is no number"),
        ("q.json", '{"3": {"1": true}}', "a grade for the query '3' that is no number"),
        ("q.json", '{"3": {"1": NaN}}', "grades '1' for the query '3' with no finite number"),
        ("q.json", '{"3": 1}', "is not of the form"),
        ("q.json", '["3"]', "is not of the form"),
        ("q.json", "{}", "has no judgements"),
        ("q.json", "[" * 100_000, "cannot be read as .json"),
        ("q.json", '{"3": {"1": 1, "1": 2}}', "judges the document '1' twice for the query '3'"),
        ("q.txt", "3 0 1 high", "high"),
        ("q.txt", "3 0 1 nan", "no finite number"),
        ("q.txt", "3 0 1 1\n3 1 1", "line 2 has 3 columns"),
        ("q.txt", "", "has no judgements"),
        ("q.txt", "3 0 1 1\n3 0 1 1", "judges the document '1' twice"),
        ("q.tsv", "query-id\tcorpus-id\tscore\n3\t1\thigh\n", "high"),
        ("q.tsv", "query-id\tcorpus-id\tscore\n3\t1\t\n", "q.tsv"),
        ("q.tsv", "query-id\tcorpus-id\n3\t1\n", "has no column score"),
        ("q.tsv", "3\t1\t1\n", "has no column query-id, corpus-id, score"),
        ("q.csv", "query-id,corpus-id,score\n", "has no judgements"),
    ],
)
def test_judgements_that_do_not_fit_are_refused(
    task: PrecomputedTask, tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (tmp_path / name).write_text(content)
    assert expected in refusal(replace(task, qrels=str(tmp_path / name)))


def test_ten_documents_and_one_query_are_enough(tmp_path: Path) -> None:
    task = PrecomputedTask(*(str(tmp_path / name) for name in ("q.npy", "q.json", "c.npy", "c.json", "qrels.json")))
    np.save(task.queries, np.eye(10, dtype=np.float32)[7:8])
    np.save(task.corpus, np.eye(10, dtype=np.float16))
    contents = ((task.query_ids, ["q"]), (task.corpus_ids, list(range(10))), (task.qrels, {"q": {"7": 1}}))
    for path, content in contents:
        Path(path).write_text(json.dumps(content))
    ours = measured(task.load())
    assert (ours["map"], ours["recall@1"], ours["precision@10"]) == (1.0, 1.0, 0.1)


OWN_MEMORY = """
import sys, threading
from gcl.retrieval.precomputed.task import PrecomputedTask

def own_megabytes():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) / 1024

peak, done = 0.0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, own_megabytes())

before = own_megabytes()
watcher = threading.Thread(target=watch)
watcher.start()
loaded = PrecomputedTask(*sys.argv[1:6], normalize=sys.argv[6] == "True").load()
done.set()
watcher.join()
rows = len(loaded.corpus)
print(peak - before, rows, float(loaded.corpus.block(rows - 1, rows).norm()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("normalize", [False, True])
def test_a_mapped_corpus_is_never_held_in_memory(tmp_path: Path, normalize: bool) -> None:
    rows, dimensions = 150_000, 512  # 307 MB
    corpus = np.lib.format.open_memmap(tmp_path / "c.npy", mode="w+", dtype=np.float32, shape=(rows, dimensions))
    for start in range(0, rows, 10_000):
        corpus[start : start + 10_000] = 0.5
    corpus.flush()
    del corpus
    np.save(tmp_path / "q.npy", np.ones((1, dimensions), np.float32))
    (tmp_path / "q.txt").write_text("q\n")
    (tmp_path / "c.txt").write_text("".join(f"{number:012}\n" for number in range(rows)))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t000000000007\t1\n")
    arguments = [str(tmp_path / name) for name in ("q.npy", "q.txt", "c.npy", "c.txt", "qrels.tsv")]
    done = subprocess.run(
        [sys.executable, "-c", OWN_MEMORY, *arguments, str(normalize)], capture_output=True, text=True, check=True
    )
    own, found_rows, length = (float(number) for number in done.stdout.split())
    (tmp_path / "c.npy").unlink()
    assert own < 120, own  # a few blocks of 4 MB, the ids, and what imports leave behind
    assert found_rows == rows
    assert length == pytest.approx(1.0 if normalize else np.sqrt(0.25 * dimensions))


@pytest.mark.skipif(not GCL_RUNS.is_dir(), reason="the outputs of GCL's evaluator are not at hand")
@pytest.mark.parametrize("run", ["pl_2k_query", "pl_2k_title"])
def test_gcl_s_files_are_read_as_gcl_reads_them(run: str) -> None:
    names = ("queries.npy", "query_ids.json", "docs.npy", "doc_ids.txt", "qrels.json")
    loaded = PrecomputedTask(*(str(GCL_RUNS / run / name) for name in names)).load()
    assert loaded.warnings == []
    ours = measured(loaded)
    theirs = json.loads((GCL_RUNS / run / "output.json").read_text())
    for name, (group, prefix) in {
        "map": ("mAP", "MAP"),
        "ndcg": ("ndcg", "NDCG"),
        "precision": ("precision", "P"),
        "recall": ("recall", "Recall"),
        "mrr": ("mrr", "MRR"),
    }.items():
        for k in CUTOFFS:
            assert round(ours[f"{name}@{k}"], 5) == theirs[group][f"{prefix}@{k}"], f"{name}@{k}"
    for name, column in (("err", "mERR"), ("rbp@0.7", "mRBP7"), ("rbp@0.8", "mRBP8"), ("rbp@0.9", "mRBP9")):
        assert ours[name] == pytest.approx(theirs["summary"][column], abs=1e-6)

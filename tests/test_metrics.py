"""Retrieval metrics: GCL, trec_eval, sentence-transformers and hand-written tables give the same numbers."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from gcl.retrieval.hits import Judgements
from gcl.retrieval.metrics import CUTOFFS, DEPTH, QUERY_METRICS, QueryMetrics, query_metrics, summary

GCL_RUNS = Path(__file__).resolve().parents[2] / "shared" / "data" / "gcl_evaluator"
# metrics.json's name -> the group and the prefix in GCL's output.json
GCL_NAMES = {
    "map": ("mAP", "MAP"),
    "ndcg": ("ndcg", "NDCG"),
    "precision": ("precision", "P"),
    "recall": ("recall", "Recall"),
    "mrr": ("mrr", "MRR"),
}
TREC_NAMES = {"map": "map_cut", "ndcg": "ndcg_cut", "recall": "recall", "precision": "P"}
Run = tuple[np.ndarray, np.ndarray]  # scores and retrieved documents


def retrieve(scores: np.ndarray, depth: int) -> Run:
    """The best documents of a whole table of scores, equal ones by number."""
    retrieved = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, retrieved, 1), retrieved


def random_judgements(queries: int, documents: int, most: int, rng: np.random.Generator) -> Judgements:
    """Graded, in no order, some of them for documents that are not retrieved."""
    judged = [rng.permutation(documents)[: rng.integers(1, most)] for _ in range(queries)]
    numbers = np.repeat(np.arange(queries), [len(of_query) for of_query in judged])
    order = rng.permutation(len(numbers))
    grades = rng.integers(1, 6, len(numbers)).astype(np.float64)
    return Judgements(numbers[order], np.concatenate(judged)[order], grades)


@pytest.mark.parametrize("levels", [2, 12, 300])
@pytest.mark.parametrize("depth", [7, 120])
def test_trec_eval_gives_the_same_numbers_on_graded_judgements_with_ties(levels: int, depth: int) -> None:
    rng = np.random.default_rng(levels)
    queries, corpus = 300, 150
    ids = [f"{start}{n}" for n, start in zip(rng.permutation(corpus), ["", "0", "é", "Z", "日"] * 30, strict=True)]
    scores, retrieved = retrieve(rng.integers(0, levels, (queries, corpus)).astype(np.float32) / 8, depth)
    judgements = random_judgements(queries, corpus, 40, rng)
    qrels: dict[str, dict[str, int]] = {str(query): {} for query in range(queries)}
    for query, document, grade in zip(judgements.queries, judgements.documents, judgements.grades, strict=True):
        qrels[str(query)][ids[document]] = int(grade)
    run = {
        str(query): {ids[document]: float(score) for document, score in zip(*of_query, strict=True)}
        for query, of_query in enumerate(zip(retrieved, scores, strict=True))
    }
    cutoffs = ",".join(map(str, CUTOFFS))
    measures = {f"{name}.{cutoffs}" for name in TREC_NAMES.values()} | {"map"}
    answer = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    theirs = [answer[query] for query in qrels]
    ours = query_metrics(scores, retrieved, judgements, pa.array(ids))
    assert ours.values["map"] == pytest.approx([query["map"] for query in theirs], abs=1e-9)
    for name in ("ndcg", "recall", "precision"):
        expected = [query[f"{TREC_NAMES[name]}_10"] for query in theirs]
        assert ours.values[f"{name}@10"] == pytest.approx(expected, abs=1e-9), name
    for name, their_name in TREC_NAMES.items():
        for k in CUTOFFS:
            expected = np.mean([query[f"{their_name}_{k}"] for query in theirs])
            assert ours.by_cutoff[f"{name}@{k}"] == pytest.approx(expected, abs=1e-9), f"{name}@{k}"


@pytest.mark.skipif(not GCL_RUNS.is_dir(), reason="the outputs of GCL's evaluator are not at hand")
@pytest.mark.parametrize("run", ["pl_2k_query", "pl_2k_title"])
def test_gcl_s_evaluator_gives_the_same_digits(run: str) -> None:
    folder = GCL_RUNS / run
    query_ids = json.loads((folder / "query_ids.json").read_text())
    qrels = json.loads((folder / "qrels.json").read_text())
    ids = (folder / "doc_ids.txt").read_text().split()
    number = {document: i for i, document in enumerate(ids)}
    judged = [(i, number[document], grade) for i, q in enumerate(query_ids) for document, grade in qrels[q].items()]
    queries, documents, grades = (np.array(column) for column in zip(*judged, strict=True))
    left, right = (torch.from_numpy(np.load(folder / name)) for name in ("queries.npy", "docs.npy"))
    scores, retrieved = retrieve((left @ right.T).numpy(), DEPTH)
    judgements = Judgements(queries, documents, grades.astype(np.float64))
    ours = query_metrics(scores, retrieved, judgements, pa.array(ids))
    theirs = json.loads((folder / "output.json").read_text())
    printed = {f"{ours_}@{k}": theirs[group][f"{p}@{k}"] for ours_, (group, p) in GCL_NAMES.items() for k in CUTOFFS}
    assert {name: round(ours.by_cutoff[name], 5) for name in printed} == printed
    columns, row = ((folder / "output.csv").read_text().splitlines()[i].split(",") for i in (0, 1))
    table = dict(zip(columns, map(float, row), strict=True))
    for name, column in (("err", "mERR"), ("rbp@0.7", "mRBP7"), ("rbp@0.8", "mRBP8"), ("rbp@0.9", "mRBP9")):
        assert ours.values[name].mean() == pytest.approx(table[column], abs=1e-6)


class PrecomputedModel:
    """What sentence-transformers' evaluator asks of a model; a text is the number of its embedding."""

    similarity_fn_name = "dot"

    def __init__(self, queries: torch.Tensor, documents: torch.Tensor) -> None:
        self.queries, self.documents = queries, documents

    def encode_query(self, texts: list[str], **_: object) -> torch.Tensor:
        return self.queries[[int(text) for text in texts]]

    def encode_document(self, texts: list[str], **_: object) -> torch.Tensor:
        return self.documents[[int(text) for text in texts]]


def test_sentence_transformers_evaluator_gives_the_same_numbers_on_the_same_embeddings() -> None:
    rng = np.random.default_rng(3)
    left, right = (torch.from_numpy(rng.normal(size=(n, 16)).astype(np.float32)) for n in (200, 400))
    judgements = random_judgements(200, 400, 10, rng)
    judgements = Judgements(judgements.queries, judgements.documents, np.ones(len(judgements.grades)))
    relevant: dict[str, set[str]] = {str(query): set() for query in range(200)}
    for query, document in zip(judgements.queries, judgements.documents, strict=True):
        relevant[str(query)].add(str(document))
    texts = {name: {str(i): str(i) for i in range(n)} for name, n in (("queries", 200), ("corpus", 400))}
    cutoffs = list(CUTOFFS)
    evaluator = InformationRetrievalEvaluator(
        **texts,
        relevant_docs=relevant,
        mrr_at_k=cutoffs,
        ndcg_at_k=cutoffs,
        accuracy_at_k=cutoffs,
        precision_recall_at_k=cutoffs,
        map_at_k=cutoffs,
        score_functions={"dot": lambda queries, documents: queries @ documents.T},
    )
    theirs = evaluator.compute_all_metrics(PrecomputedModel(left, right))["dot"]
    scores, retrieved = retrieve((left @ right.T).numpy(), DEPTH)
    ours = query_metrics(scores, retrieved, judgements, pa.array(list(texts["corpus"])))
    most = int(ours.judged.max())
    assert 5 < most < 10  # both kinds of cutoffs are there: with fewer positives, and with more
    for k in CUTOFFS:
        for name in ("recall", "precision", "mrr", "ndcg"):
            assert ours.by_cutoff[f"{name}@{k}"] == pytest.approx(theirs[f"{name}@k"][k], abs=1e-9), f"{name}@{k}"
        found = (ours.first_relevant > 0) & (ours.first_relevant <= k)
        assert found.mean() == pytest.approx(theirs["accuracy@k"][k], abs=1e-9), f"accuracy@{k}"
        if k >= most:
            assert ours.by_cutoff[f"map@{k}"] == pytest.approx(theirs["map@k"][k], abs=1e-9), f"map@{k}"


def measure(ranked: list[list[int]], not_retrieved: dict[int, list[int]] | None = None) -> QueryMetrics:
    """Of documents with these grades, best first and without ties; 0 is not judged. Each query has its own documents.

    Args:
        ranked: grades of what each query retrieved.
        not_retrieved: query -> grades of its relevant documents that were not.
    """
    queries, depth = len(ranked), len(ranked[0])
    retrieved = np.arange(queries * depth, dtype=np.int32).reshape(queries, depth)
    missed = [(query, grade) for query, grades in (not_retrieved or {}).items() for grade in grades]
    table = [(q, int(retrieved[q, i]), grade) for q, row in enumerate(ranked) for i, grade in enumerate(row) if grade]
    table += [(query, queries * depth + i, grade) for i, (query, grade) in enumerate(missed)]
    numbers, documents, grades = (np.array(column) for column in zip(*table, strict=True))
    scores = np.tile(np.linspace(1, 0, depth, dtype=np.float32), (queries, 1))
    ids = pa.array([f"{i:03}" for i in range(queries * depth + len(missed))])
    return query_metrics(scores, retrieved, Judgements(numbers, documents, grades.astype(np.float64)), ids)


def test_reciprocal_rank_is_that_of_the_first_relevant_document_within_the_cutoff() -> None:
    measured = measure([[0, 0, 2, 1], [1, 0, 0, 0], [0, 0, 0, 0]], {2: [1]})
    assert measured.values["mrr"].tolist() == [1 / 3, 1, 0]
    assert measured.first_relevant.tolist() == [3, 1, 0]
    assert measured.by_cutoff["mrr@2"] == 1 / 3


def test_expected_reciprocal_rank_follows_its_formula() -> None:
    # p = 7/8, 0, 1/8: 7/8 at rank 1; 1/8 x 1 x 1/8 at rank 3.
    measured = measure([[3, 0, 1], [0, 0, 0]], {1: [1]})
    assert measured.values["err"] == pytest.approx([7 / 8 + 1 / 8 * 1 / 8 / 3, 0])


@pytest.mark.parametrize("highest", [100, 5000])
def test_expected_reciprocal_rank_of_a_weight_column_s_grades_is_a_number(highest: int) -> None:
    # 2^100 - 1 is 2^100 in float64: whoever looks at the first document looks no further. 2^5000 is no float64.
    measured = measure([[highest, highest, 1], [highest - 1, highest, 0]])
    assert measured.values["err"] == pytest.approx([1, 1 / 2 + 1 / 2 * 1 / 2])


def test_the_best_grade_is_that_of_each_query() -> None:
    """As in GCL's evaluator, where a query's own judgements say how high its grades go."""
    measured = measure([[2, 0], [0, 1], [0, 0]], {2: [5]})
    assert measured.values["err"] == pytest.approx([3 / 4, 1 / 2 / 2, 0])
    assert measured.values["rbp@0.8"] == pytest.approx([0.2, 0.2 * 0.8, 0])


def test_rank_biased_precision_follows_its_formula() -> None:
    measured = measure([[3, 0, 1], [0, 3, 0]])
    for p in (0.7, 0.8, 0.9):
        assert measured.values[f"rbp@{p}"] == pytest.approx([(1 - p) * (1 + p**2 / 3), (1 - p) * p])


def test_average_precision_recall_and_ndcg_follow_their_formulas() -> None:
    measured = measure([[2, 0, 1]], {0: [3]})
    gain, best = 2 + 1 / 2, 3 + 2 / np.log2(3) + 1 / 2
    expected = {"map": (1 + 2 / 3) / 3, "ndcg@10": gain / best, "recall@10": 2 / 3, "precision@10": 2 / 10}
    assert {name: measured.values[name][0] for name in expected} == pytest.approx(expected)
    assert measured.judged.tolist() == [3]
    at_two = {"map@2": 1 / 3, "ndcg@2": 2 / (3 + 2 / np.log2(3)), "recall@2": 1 / 3, "precision@2": 1 / 2}
    assert {name: measured.by_cutoff[name] for name in at_two} == pytest.approx(at_two)


def test_only_the_trec_metrics_order_ties_by_document_id() -> None:
    # Two equal scores: retrieval put document 0 first, trec_eval puts id "b" (document 1) first.
    scores, retrieved = np.ones((1, 2), dtype=np.float32), np.array([[0, 1]])
    judgements = Judgements(np.array([0]), np.array([1]), np.array([1.0]))
    measured = query_metrics(scores, retrieved, judgements, pa.array(["a", "b"]))
    assert (measured.values["map"].tolist(), measured.values["mrr"].tolist()) == ([1.0], [0.5])


def test_a_corpus_smaller_than_the_depth_is_measured() -> None:
    judgements = Judgements(np.array([0, 1]), np.array([2, 0]), np.ones(2))
    measured = query_metrics(*retrieve(np.eye(2, 3, dtype=np.float32), DEPTH), judgements, pa.array(["1", "01", "a"]))
    metrics = summary(measured, documents=3)
    assert (metrics["queries"], metrics["corpus"]) == (2, 3)
    assert measured.by_cutoff["recall@1000"] == 1.0


def test_the_summary_has_the_keys_of_metrics_json() -> None:
    metrics = summary(measure([[0, 1], [1, 0]]), documents=4)
    assert list(metrics) == [*QUERY_METRICS, "queries", "corpus", "by_cutoff"]
    at_cutoffs = [f"{name}@{k}" for k in CUTOFFS for name in ("ndcg", "map", "recall", "precision", "mrr")]
    assert list(metrics["by_cutoff"]) == at_cutoffs  # type: ignore[call-overload]
    assert json.loads(json.dumps(metrics)) == metrics


def test_queries_that_retrieved_nothing_relevant_are_zero_everywhere() -> None:
    measured = measure([[0, 0], [0, 0]], {0: [1], 1: [2, 1]})
    assert all(values.tolist() == [0, 0] for values in measured.values.values())
    assert set(measured.by_cutoff.values()) == {0.0}


@pytest.mark.parametrize("queries", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_hundred_thousand_queries_take_less_than_ten_cpu_seconds(queries: int) -> None:
    rng = np.random.default_rng(0)
    documents, judged = 1_000_000, 10
    retrieved = rng.integers(0, documents, (queries, DEPTH), dtype=np.int32)
    scores = rng.integers(0, 5000, (queries, DEPTH), dtype=np.int16).astype(np.float32) / 5000  # one in six is tied
    scores[:] = -np.sort(-scores)
    numbers = np.repeat(np.arange(queries), judged)
    places = np.tile(np.arange(judged) * 73, queries) + numbers % 70  # seven of ten are retrieved
    relevant = np.where(places % 10 < 7, retrieved[numbers, places], rng.integers(0, documents, len(numbers)))
    judgements = Judgements(numbers, relevant, rng.integers(1, 6, len(numbers)).astype(np.float64))
    ids = pa.array(map(str, range(documents)))
    started = time.process_time()
    measured = query_metrics(scores, retrieved, judgements, ids)
    assert time.process_time() - started < 10 * queries / 100_000
    assert measured.by_cutoff["recall@1000"] == pytest.approx(0.7, abs=0.01)
    tracemalloc.start()
    query_metrics(scores, retrieved, judgements, ids)
    assert tracemalloc.get_traced_memory()[1] < (scores.nbytes + retrieved.nbytes) / 2
    tracemalloc.stop()

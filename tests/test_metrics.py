"""Retrieval metrics: GCL's evaluator, trec_eval and hand-written tables give the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch

from gcl.retrieval.metrics import (
    CUTOFFS,
    Judgements,
    average_precision,
    expected_reciprocal_rank,
    ndcg,
    rank_biased_precision,
    reciprocal_rank,
    retrieval_metrics,
)
from gcl.retrieval.search import search

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


def id_rank(ids: list[str]) -> np.ndarray:
    return np.array(ids).argsort().argsort()


def random_run(seed: int) -> tuple[np.ndarray, np.ndarray, Judgements, list[str]]:
    """Scores with many ties, retrieved documents, graded judgements (some not retrieved), and ids as strings."""
    rng = np.random.default_rng(seed)
    queries, corpus, depth = 20, 150, 120
    ids = [str(number) for number in rng.permutation(1000)[:corpus]]  # "9" stands behind "10"
    scores = rng.integers(0, 12, (queries, corpus)).astype(np.float32) / 8
    retrieved = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    judged = [rng.permutation(corpus)[: rng.integers(1, 40)] for _ in range(queries)]
    numbers = np.repeat(np.arange(queries), [len(documents) for documents in judged])
    documents = np.concatenate(judged)
    grades = rng.integers(1, 6, len(documents)).astype(np.float64)
    return np.take_along_axis(scores, retrieved, 1), retrieved, Judgements(numbers, documents, grades), ids


@pytest.mark.parametrize("seed", range(5))
def test_trec_eval_gives_the_same_numbers_on_graded_judgements_with_ties(seed: int) -> None:
    scores, retrieved, judgements, ids = random_run(seed)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(judgements.queries, judgements.documents, judgements.grades, strict=True):
        qrels.setdefault(str(query), {})[ids[document]] = int(grade)
    run = {
        str(query): {
            ids[document]: float(score) for document, score in zip(retrieved[query], scores[query], strict=True)
        }
        for query in range(len(scores))
    }
    cutoffs = ",".join(map(str, CUTOFFS))
    measures = {f"{name}.{cutoffs}" for name in TREC_NAMES.values()} | {"map"}
    theirs = list(pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run).values())
    ours = retrieval_metrics(scores, retrieved, judgements, id_rank(ids))
    assert ours["map"] == pytest.approx(np.mean([query["map"] for query in theirs]), abs=1e-9)
    by_cutoff = ours["by_cutoff"]
    assert isinstance(by_cutoff, dict)
    for name, their_name in TREC_NAMES.items():
        for k in CUTOFFS:
            expected = np.mean([query[f"{their_name}_{k}"] for query in theirs])
            assert by_cutoff[f"{name}@{k}"] == pytest.approx(expected, abs=1e-9), f"{name}@{k}"


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
    embeddings = [torch.from_numpy(np.load(folder / name)) for name in ("queries.npy", "docs.npy")]
    scores, retrieved = search(*embeddings, depth=1000)
    ours = retrieval_metrics(
        scores.numpy(), retrieved.numpy(), Judgements(queries, documents, grades.astype(np.float64)), id_rank(ids)
    )
    theirs = json.loads((folder / "output.json").read_text())
    by_cutoff = ours["by_cutoff"]
    assert isinstance(by_cutoff, dict)
    printed = {f"{ours_}@{k}": theirs[group][f"{p}@{k}"] for ours_, (group, p) in GCL_NAMES.items() for k in CUTOFFS}
    assert {name: round(by_cutoff[name], 5) for name in printed} == printed
    for name, column in (("err", "mERR"), ("rbp@0.7", "mRBP7"), ("rbp@0.8", "mRBP8"), ("rbp@0.9", "mRBP9")):
        assert ours[name] == pytest.approx(theirs["summary"][column], abs=1e-6)


def test_reciprocal_rank_is_that_of_the_first_relevant_document_within_the_cutoff() -> None:
    grades = np.array([[0, 0, 2, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=float)
    assert reciprocal_rank(grades, 4).tolist() == [1 / 3, 1, 0]
    assert reciprocal_rank(grades, 2).tolist() == [0, 1, 0]


def test_expected_reciprocal_rank_follows_its_formula() -> None:
    # p = 7/8, 0, 1/8: 7/8 at rank 1; 1/8 x 1 x 1/8 at rank 3.
    grades = np.array([[3, 0, 1], [0, 0, 0]], dtype=float)
    assert expected_reciprocal_rank(grades, highest=3) == pytest.approx([7 / 8 + 1 / 8 * 1 / 8 / 3, 0])


def test_expected_reciprocal_rank_of_a_weight_column_s_hundred_grades_is_a_number() -> None:
    # 2^100 - 1 is 2^100 in float64: whoever looks at the first document looks no further.
    grades = np.array([[100, 100, 1], [99, 100, 0]], dtype=float)
    assert expected_reciprocal_rank(grades, highest=100) == pytest.approx([1, 1 / 2 + 1 / 2 * 1 / 2])


def test_rank_biased_precision_follows_its_formula() -> None:
    grades = np.array([[3, 0, 1], [0, 3, 0]], dtype=float)
    assert rank_biased_precision(grades, highest=3, p=0.5) == pytest.approx([0.5 * (1 + 0.25 / 3), 0.25])


def test_average_precision_and_ndcg_follow_their_formulas() -> None:
    grades = np.array([[2, 0, 1]], dtype=float)
    ideal = np.array([[3, 2, 1]], dtype=float)  # one relevant document was not retrieved
    assert average_precision(grades, np.array([3]), 3) == pytest.approx([(1 + 2 / 3) / 3])
    gain, best = 2 + 1 / 2, 3 + 2 / np.log2(3) + 1 / 2
    assert ndcg(grades, ideal, 3) == pytest.approx([gain / best])


def test_only_the_trec_metrics_order_ties_by_document_id() -> None:
    # Two equal scores: retrieval put document 0 first, trec_eval puts id "b" (document 1) first.
    scores, retrieved = np.ones((1, 2), dtype=np.float32), np.array([[0, 1]])
    judgements = Judgements(np.array([0]), np.array([1]), np.array([1.0]))
    metrics = retrieval_metrics(scores, retrieved, judgements, id_rank(["a", "b"]))
    assert (metrics["map"], metrics["mrr"]) == (1.0, 0.5)


def test_a_corpus_smaller_than_the_depth_is_measured() -> None:
    judgements = Judgements(np.array([0, 1]), np.array([2, 0]), np.ones(2))
    scores, retrieved = search(torch.eye(2, 3), torch.eye(3), depth=1000)
    metrics = retrieval_metrics(scores.numpy(), retrieved.numpy(), judgements, np.arange(3))
    assert (metrics["queries"], metrics["corpus"]) == (2, 3)
    assert metrics["by_cutoff"]["recall@1000"] == 1.0  # type: ignore[index]

"""Retrieval metrics as GCL's evaluator defines them (arXiv 2404.08535), vectorised over queries.

mAP, nDCG, recall and precision are trec_eval's: equal scores are ordered by document id, descending. MRR, ERR
(Chapelle et al. 2009) and RBP (Moffat and Zobel 2008) take the order of retrieval as it is.
"""

from dataclasses import dataclass

import numpy as np

DEPTH = 1000  # documents retrieved for each query
CUTOFFS = (1, 2, 3, 4, 5, 6, 8, 10, 12, *range(20, 101, 10), 200, 500, 1000)
PERSISTENCE = (0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Judgements:
    """Which documents are relevant to which query, and how much."""

    queries: np.ndarray  # (judged,) int64 query number
    documents: np.ndarray  # (judged,) int64 document number
    grades: np.ndarray  # (judged,) float64, above 0

    def grades_of(self, retrieved: np.ndarray, corpus: int) -> np.ndarray:
        """The grade of every retrieved document, 0 where it is not judged: (queries, depth) float64.

        Args:
            retrieved: (queries, depth) int64 document numbers.
            corpus: number of documents.
        """
        keys = self.queries * corpus + self.documents
        order = np.argsort(keys)
        wanted = np.arange(len(retrieved))[:, None] * corpus + retrieved
        found = np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)
        return np.where(keys[order[found]] == wanted, self.grades[order[found]], 0.0)

    def ideal(self, queries: int) -> np.ndarray:
        """Every query's grades, highest first, padded with 0: (queries, most judged for one query) float64."""
        order = np.lexsort((-self.grades, self.queries))
        counts = np.bincount(self.queries, minlength=queries)
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        ideal = np.zeros((queries, max(1, counts.max(initial=0))))
        ideal[self.queries[order], place] = self.grades[order]
        return ideal


def retrieval_metrics(
    scores: np.ndarray, retrieved: np.ndarray, judgements: Judgements, id_rank: np.ndarray
) -> dict[str, object]:
    """Means over queries, under the names that metrics.json uses.

    Args:
        scores: (queries, depth) float32, descending.
        retrieved: (queries, depth) int64 document numbers in the order of retrieval.
        judgements: the relevant documents; every query has at least one.
        id_rank: (corpus,) int64 place of each document's id among all ids in string order.
    """
    queries, corpus = len(retrieved), len(id_rank)
    grades = judgements.grades_of(retrieved, corpus)
    by_id = np.lexsort((-id_rank[retrieved], -scores), axis=1)
    trec = np.take_along_axis(grades, by_id, axis=1)
    ideal = judgements.ideal(queries)
    relevant = (ideal > 0).sum(1)
    by_cutoff: dict[str, float] = {}
    for k in CUTOFFS:
        by_cutoff |= {
            f"ndcg@{k}": mean(ndcg(trec, ideal, k)),
            f"map@{k}": mean(average_precision(trec, relevant, k)),
            f"recall@{k}": mean(hits(trec, k) / relevant),
            f"precision@{k}": mean(hits(trec, k) / k),
            f"mrr@{k}": mean(reciprocal_rank(grades, k)),
        }
    highest = ideal.max(initial=1.0)
    return {
        "map": by_cutoff[f"map@{DEPTH}"],
        "mrr": by_cutoff[f"mrr@{DEPTH}"],
        "ndcg@10": by_cutoff["ndcg@10"],
        "recall@10": by_cutoff["recall@10"],
        "precision@10": by_cutoff["precision@10"],
        "err": mean(expected_reciprocal_rank(grades, highest)),
        **{f"rbp@{p}": mean(rank_biased_precision(grades, highest, p)) for p in PERSISTENCE},
        "queries": queries,
        "corpus": corpus,
        "by_cutoff": by_cutoff,
    }


def mean(values: np.ndarray) -> float:
    """Summed query by query, as pytrec_eval's users do: a mean on the edge of a digit is then printed as theirs is."""
    return float(values.cumsum()[-1] / len(values))


def hits(grades: np.ndarray, k: int) -> np.ndarray:
    """Relevant documents among the first k: (queries,)."""
    return (grades[:, :k] > 0).sum(1)


def average_precision(grades: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Precision at each relevant document's rank within k, summed and divided by all relevant: (queries,)."""
    relevance = grades[:, :k] > 0
    precision = relevance.cumsum(1) / np.arange(1, relevance.shape[1] + 1)
    return (precision * relevance).sum(1) / relevant


def ndcg(grades: np.ndarray, ideal: np.ndarray, k: int) -> np.ndarray:
    """Linear gain over log2(rank + 1), divided by that of the best order of all judged: (queries,)."""
    return dcg(grades[:, :k]) / dcg(ideal[:, :k])


def dcg(grades: np.ndarray) -> np.ndarray:
    return (grades / np.log2(np.arange(2, grades.shape[1] + 2))).sum(1)


def reciprocal_rank(grades: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the first relevant document within k, or 0: (queries,)."""
    relevance = grades[:, :k] > 0
    return np.where(relevance.any(1), 1.0 / (relevance.argmax(1) + 1), 0.0)


def expected_reciprocal_rank(grades: np.ndarray, highest: float) -> np.ndarray:
    """sum_r (1/r) p_r prod_{i<r} (1 - p_i), with p = (2^grade - 1) / 2^highest: (queries,)."""
    stop = (2.0**grades - 1) / 2.0**highest
    reached = np.cumprod(1 - np.pad(stop, ((0, 0), (1, 0)))[:, :-1], axis=1)
    return (stop * reached / np.arange(1, grades.shape[1] + 1)).sum(1)


def rank_biased_precision(grades: np.ndarray, highest: float, p: float) -> np.ndarray:
    """(1 - p) sum_r (grade_r / highest) p^(r - 1): (queries,)."""
    return (1 - p) * (grades / highest * p ** np.arange(grades.shape[1])).sum(1)

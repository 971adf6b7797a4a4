"""Retrieval metrics as GCL's evaluator defines them (arXiv 2404.08535), for every query and on average.

mAP, nDCG, recall and precision are trec_eval's: equal scores are ordered by document id, descending. MRR, ERR
(Chapelle et al. 2009) and RBP (Moffat and Zobel 2008) take the order of retrieval as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gcl.retrieval.hits import Hits, Judgements, count_within, find_hits, trec_order

DEPTH = 1000  # documents retrieved for each query
CUTOFFS = (1, 2, 3, 4, 5, 6, 8, 10, 12, *range(20, 101, 10), 200, 500, 1000)
PERSISTENCE = (0.7, 0.8, 0.9)
QUERY_METRICS = ("map", "mrr", "ndcg@10", "recall@10", "precision@10", "err", "rbp@0.7", "rbp@0.8", "rbp@0.9")


@dataclass(frozen=True)
class QueryMetrics:
    """What retrieval was worth, query by query."""

    values: dict[str, np.ndarray]  # each of QUERY_METRICS: (queries,) float64
    by_cutoff: dict[str, float]  # "ndcg@1" and the like: means over queries
    first_relevant: np.ndarray  # (queries,) int32 rank in the order of retrieval, 0: none was retrieved
    judged: np.ndarray  # (queries,) int64 number of relevant documents


def query_metrics(
    scores: np.ndarray, retrieved: np.ndarray, judgements: Judgements, document_ids: pa.StringArray
) -> QueryMetrics:
    """Measure what was retrieved for queries that have a relevant document each; leave out those that have none.

    Args:
        scores: (queries, depth) float32, descending.
        retrieved: (queries, depth) document numbers of any integer type, in the order of retrieval.
        judgements: the relevant documents; at least one for every query.
        document_ids: (documents,) unique.
    """
    queries = len(retrieved)
    hits = find_hits(retrieved, judgements, len(document_ids))
    ideal = best_order(judgements)
    judged = np.bincount(ideal.queries, minlength=queries)
    first = np.zeros(queries, dtype=np.int32)
    is_first = count_within(hits.queries) == 1
    first[hits.queries[is_first]] = hits.ranks[is_first]
    highest = np.zeros(queries)
    np.maximum.at(highest, judgements.queries, judgements.grades)
    at = dict(metrics_at_cutoffs(trec_order(hits, scores, retrieved, document_ids), ideal, judged, first))
    values = {
        "map": at[f"map@{DEPTH}"],
        "mrr": at[f"mrr@{DEPTH}"],
        **{name: at[name] for name in ("ndcg@10", "recall@10", "precision@10")},
        "err": expected_reciprocal_rank(hits, highest),
        **{f"rbp@{p}": rank_biased_precision(hits, highest, p) for p in PERSISTENCE},
    }
    return QueryMetrics(values, {name: mean(values) for name, values in at.items()}, first, judged)


def metrics_at_cutoffs(
    hits: Hits, ideal: Hits, judged: np.ndarray, first: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """("ndcg@1", (queries,)) and the like for each of CUTOFFS, from hits in trec_eval's order."""
    queries = len(judged)
    sums = zip(
        sums_within_cutoffs(hits, gains(hits), queries),
        sums_within_cutoffs(ideal, gains(ideal), queries),
        sums_within_cutoffs(hits, count_within(hits.queries) / hits.ranks, queries),
        sums_within_cutoffs(hits, np.ones(len(hits.ranks)), queries),
        strict=True,
    )
    reciprocal = np.divide(1.0, first, out=np.zeros(queries), where=first > 0)
    for k, (dcg, ideal_dcg, precisions, found) in zip(CUTOFFS, sums, strict=True):
        yield f"ndcg@{k}", dcg / ideal_dcg
        yield f"map@{k}", precisions / judged
        yield f"recall@{k}", found / judged
        yield f"precision@{k}", found / k
        yield f"mrr@{k}", np.where(first <= k, reciprocal, 0.0)


def sums_within_cutoffs(hits: Hits, values: np.ndarray, queries: int) -> Iterator[np.ndarray]:
    """For each of CUTOFFS, every query's sum over its hits of at most that rank: (queries,), the same array again."""
    totals = np.zeros(queries)
    cutoff = np.searchsorted(CUTOFFS, hits.ranks).astype(np.int8)
    order = np.argsort(cutoff, kind="stable")
    bounds = np.searchsorted(cutoff[order], np.arange(len(CUTOFFS) + 1))
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        added = order[start:stop]
        # One after the other in order of rank, as trec_eval adds them: the last digit is then the same.
        np.add.at(totals, hits.queries[added], values[added])
        yield totals


def best_order(judgements: Judgements) -> Hits:
    """All relevant documents of each query as the best retrieval would rank them."""
    order = np.lexsort((-judgements.grades, judgements.queries))
    queries = judgements.queries[order]
    return Hits(queries, count_within(queries), judgements.grades[order])


def gains(hits: Hits) -> np.ndarray:
    """What each hit adds to the DCG, linear in its grade: (hits,)."""
    return hits.grades / np.log2(hits.ranks + 1)


def expected_reciprocal_rank(hits: Hits, highest: np.ndarray) -> np.ndarray:
    """sum_r (1/r) p_r prod_{i<r} (1 - p_i), with p = (2^grade - 1) / 2^highest: (queries,).

    Args:
        highest: (queries,) the best grade of each query.
    """
    limits = highest[hits.queries]
    stops = np.exp2(hits.grades - limits) - np.exp2(-limits)
    expected, reached = np.zeros(len(highest)), np.ones(len(highest))
    numbers = count_within(hits.queries)
    order = np.argsort(numbers, kind="stable")
    for hit in np.split(order, np.cumsum(np.bincount(numbers)[1:-1])):  # the first of each query, then the second, ...
        query = hits.queries[hit]
        expected[query] += stops[hit] * reached[query] / hits.ranks[hit]
        reached[query] *= 1 - stops[hit]
    return expected


def rank_biased_precision(hits: Hits, highest: np.ndarray, p: float) -> np.ndarray:
    """(1 - p) sum_r (grade_r / highest) p^(r - 1), with the best grade of each query: (queries,)."""
    gained = hits.grades / highest[hits.queries] * p ** (hits.ranks - 1.0)
    return (1 - p) * np.bincount(hits.queries, gained, minlength=len(highest))


def mean(values: np.ndarray) -> float:
    """Summed query by query, as pytrec_eval's users do: a mean on the edge of a digit is then printed as theirs is."""
    return float(values.cumsum()[-1] / len(values))


def summary(measured: QueryMetrics, documents: int) -> dict[str, object]:
    """Means over queries, under the names that metrics.json uses."""
    return {
        **{name: mean(values) for name, values in measured.values.items()},
        "queries": len(measured.judged),
        "corpus": documents,
        "by_cutoff": measured.by_cutoff,
    }

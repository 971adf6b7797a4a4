"""Where the relevant documents stand among those that were retrieved."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

QUERY_BLOCK = 256  # queries that are looked at together: bounds the memory beside the inputs


@dataclass(frozen=True)
class Judgements:
    """Which documents are relevant to which query, and how much; each pair once."""

    queries: np.ndarray  # (judged,) int64 query number
    documents: np.ndarray  # (judged,) int64 document number
    grades: np.ndarray  # (judged,) float64, above 0


@dataclass(frozen=True)
class Hits:
    """The relevant documents that were retrieved, by query and then by rank."""

    queries: np.ndarray  # (hits,) int64 query number
    ranks: np.ndarray  # (hits,) int64, the first is 1
    grades: np.ndarray  # (hits,) float64


def count_within(queries: np.ndarray) -> np.ndarray:
    """1, 2, 3, ... for the entries of each query; `queries` is ascending."""
    return np.arange(1, len(queries) + 1) - np.searchsorted(queries, queries)


def find_hits(retrieved: np.ndarray, judgements: Judgements, documents: int) -> Hits:
    """The hits in the order of retrieval.

    Args:
        retrieved: (queries, depth) document numbers, best first.
        judgements: the relevant documents.
        documents: how many there are.
    """
    depth = retrieved.shape[1]
    order = np.argsort(judgements.queries, kind="stable")
    judged, grades = judgements.documents[order], judgements.grades[order]
    bounds = np.searchsorted(judgements.queries[order], np.arange(len(retrieved) + 1)).tolist()
    # For one query at a time: a lookup in a table beats any search. Judged documents may be in no corpus, and numbered
    # behind it.
    grade_of = np.zeros(max(documents, int(judged.max(initial=0)) + 1))
    found = np.empty((QUERY_BLOCK, depth))
    places, hit_grades = [], []
    for start in range(0, len(retrieved), QUERY_BLOCK):
        block = retrieved[start : start + QUERY_BLOCK]
        for i, row in enumerate(block):
            of_query = slice(bounds[start + i], bounds[start + i + 1])
            grade_of[judged[of_query]] = grades[of_query]
            found[i] = grade_of[row]
            grade_of[judged[of_query]] = 0
        at = np.flatnonzero(found[: len(block)])
        places.append(start * depth + at)
        hit_grades.append(found.reshape(-1)[at])
    return hits_at(np.concatenate(places), np.concatenate(hit_grades), depth)


def hits_at(places: np.ndarray, grades: np.ndarray, depth: int) -> Hits:
    """Hits by place: query x depth + rank - 1, ascending."""
    queries, ranks = np.divmod(places, depth)
    return Hits(queries, ranks + 1, grades)


def trec_order(hits: Hits, scores: np.ndarray, retrieved: np.ndarray, document_ids: pa.StringArray) -> Hits:
    """The hits as trec_eval ranks them: equal scores by document id, descending, byte by byte.

    Args:
        hits: in the order of retrieval.
        scores: (queries, depth), descending.
        retrieved: (queries, depth) document numbers.
        document_ids: (documents,).
    """
    depth = retrieved.shape[1]
    places = hits.queries * depth + hits.ranks - 1
    runs = tied_runs(scores, places)
    if not runs:
        return hits
    documents = retrieved.reshape(-1)
    is_tied = np.zeros(len(document_ids), dtype=bool)
    for starts, lengths in runs:
        is_tied[documents[members(starts, lengths)]] = True
    id_rank = ranks_of_ids(document_ids, is_tied)
    moved = places.copy()
    for starts, lengths in runs:
        before = members(starts, lengths)
        after = np.empty_like(before)
        after[np.lexsort((-id_rank[documents[before]], np.repeat(starts, lengths)))] = before
        tied = slice(*np.searchsorted(places, [before[0], before[-1] + 1]))
        found = np.searchsorted(before, places[tied])
        moved[tied] = np.where(before[found] == places[tied], after[found], places[tied])
    order = np.argsort(moved, kind="stable")
    return hits_at(moved[order], hits.grades[order], depth)


def tied_runs(scores: np.ndarray, places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs of two or more equal scores with a hit among them: (first places, lengths) for each block of queries."""
    queries, depth = scores.shape
    runs = []
    for start in range(0, queries, QUERY_BLOCK):
        block = scores[start : start + QUERY_BLOCK]
        is_first = np.ones(block.shape, dtype=bool)
        np.not_equal(block[:, 1:], block[:, :-1], out=is_first[:, 1:])
        starts = np.flatnonzero(is_first)
        lengths = np.diff(starts, append=block.size)
        of_block = slice(*np.searchsorted(places, [start * depth, start * depth + block.size]))
        has_hit = np.zeros(len(starts), dtype=bool)
        has_hit[np.searchsorted(starts, places[of_block] - start * depth, side="right") - 1] = True
        tied = np.flatnonzero(has_hit & (lengths > 1))
        if len(tied):
            runs.append((start * depth + starts[tied], lengths[tied]))
    return runs


def members(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Every place of some runs, ascending."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())


def ranks_of_ids(document_ids: pa.StringArray, wanted: np.ndarray) -> np.ndarray:
    """The place of each wanted document's id among the wanted ones, in order of bytes: (documents,) int64."""
    numbers = np.flatnonzero(wanted)
    order = pc.sort_indices(document_ids.take(pa.array(numbers))).to_numpy()
    ranks = np.zeros(len(document_ids), dtype=np.int64)
    ranks[numbers[order]] = np.arange(len(numbers))
    return ranks

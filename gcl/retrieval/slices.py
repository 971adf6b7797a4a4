"""Parts of the queries that are worth a look of their own, and how well each of them does."""

import math
import re
from collections import Counter
from typing import Any

import numpy as np

from gcl.retrieval.statistics import bootstrap_intervals

SLICE_METRICS = ("ndcg@10", "recall@10", "mrr", "map", "precision@10")
MAX_VALUES = 12  # of a column; a column of numbers with more distinct ones is cut at its quartiles
OTHER, EMPTY = "other", "(empty)"
WORDS = {1: "1", 3: "2-3", 6: "4-6"}  # at most so many words -> label


def query_slices(texts: list[str], relevant: np.ndarray, columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Name -> which part each query belongs to. What would put all queries into one part is left out.

    "words" counts those of the text. "relevant documents" tells head, torso and tail: the tail has one, the head are
    the queries with the most, down to the count at which they have half of all. A column is cut at its MAX_VALUES most
    frequent values, or where it holds numbers at its quartiles; one that is distinct for every query is left out.

    Args:
        texts: the queries.
        relevant: (queries,) how many documents are relevant.
        columns: name -> a value for each query; one called like a slice above takes its place.
    """
    slices = {"words": [words(text) for text in texts], "relevant documents": popularity(relevant)}
    slices |= {name: parts(values) for name, values in columns.items() if len(set(values)) < len(values)}
    return {name: labels for name, labels in slices.items() if len(set(labels)) > 1}


def words(text: str) -> str:
    count = len(text.split())
    return next((label for most, label in WORDS.items() if count <= most), "7 or more")


def popularity(relevant: np.ndarray) -> list[str]:
    """Head, torso or tail, with the numbers of relevant documents that these are."""
    descending = np.sort(relevant)[::-1]
    cumulative = descending.cumsum()
    head = max(2, int(descending[np.searchsorted(cumulative, cumulative[-1] / 2)]))  # equal counts stay together
    torso = "2 (torso)" if head == 3 else f"2-{head - 1} (torso)"
    return [f"{head} or more (head)" if n >= head else torso if n > 1 else "1 (tail)" for n in relevant.tolist()]


def parts(values: list[str]) -> list[str]:
    """A column's labels: quartiles of many numbers, otherwise frequent values."""
    counts = Counter(value for value in values if value)
    if len(counts) > MAX_VALUES and all(is_number(value) for value in counts):
        return quartiles(values)
    by_frequency = sorted(counts, key=lambda value: (-counts[value], value))
    named = {value for value in by_frequency[:MAX_VALUES] if counts[value] > 1}
    return [value if value in named else OTHER if value else EMPTY for value in values]


def is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def quartiles(values: list[str]) -> list[str]:
    """The quarter that each number is in, as its lowest and highest."""
    numbers = np.array([float(value) for value in values if value])
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf"))
    quarters = np.searchsorted(edges, numbers)
    within = {quarter: numbers[quarters == quarter] for quarter in np.unique(quarters).tolist()}
    labels = {quarter: f"{part.min():.12g} to {part.max():.12g}" for quarter, part in within.items()}
    of_numbers = iter(quarters.tolist())
    return [labels[next(of_numbers)] if value else EMPTY for value in values]


def slice_table(slices: dict[str, list[str]], values: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for every part of every slice: numbers ascending, otherwise the largest part first.

    Args:
        slices: name -> a label for each query.
        values: metric -> (queries,); those of SLICE_METRICS are used.

    Returns:
        {"slice", "value", "queries", "metrics": {metric: mean}, "intervals": {metric: [low, high]}}, 95 % by bootstrap.
    """
    shown = {name: values[name] for name in SLICE_METRICS if name in values}
    rows = []
    for name, of_queries in slices.items():
        labels = np.array(of_queries, dtype=object)
        for label in in_order(of_queries):
            inside = labels == label
            part = {metric: value[inside] for metric, value in shown.items()}
            rows.append(
                {
                    "slice": name,
                    "value": label,
                    "queries": int(inside.sum()),
                    "metrics": {metric: float(value.mean()) for metric, value in part.items()},
                    "intervals": {metric: list(ends) for metric, ends in bootstrap_intervals(part).items()},
                }
            )
    return rows


def in_order(labels: list[str]) -> list[str]:
    """The distinct labels as people read them; those that name no value go last."""
    counts = Counter(labels)
    starts = {label: re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?", label) for label in counts if label not in (OTHER, EMPTY)}

    def place(label: str) -> tuple[bool, float, str]:
        number = starts.get(label)
        return label not in starts, float(number[0]) if number and all(starts.values()) else -counts[label], label

    return sorted(counts, key=place)

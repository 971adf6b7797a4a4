"""Whether a model differs from the baseline by more than chance, query by query."""

import pyarrow as pa
import pyarrow.compute as pc

from gcl.compare.entry import Entry
from gcl.retrieval.statistics import randomization_test

PERMUTATIONS = 10_000
MARKS = {0.001: "‡", 0.05: "†"}  # below which p-value: the smallest first


def mark_of(p_value: float | None) -> str:
    return next((mark for limit, mark in MARKS.items() if p_value is not None and p_value < limit), "")


def p_values_against(baseline: str, entries: list[Entry], metrics: list[str]) -> dict[str, dict[str, float]]:
    """Model -> metric -> p-value of the paired randomisation test against the baseline's entry.

    Tested are those with results for the same queries. For each metric, p-values are corrected by Holm's method over
    the models that are tested.
    """
    base = next((entry.per_query for entry in entries if entry.model == baseline), None)
    others = {entry.model: with_queries_of(base, entry.per_query) for entry in entries if entry.model != baseline}
    tested = {model: table for model, table in others.items() if table is not None}
    found: dict[str, dict[str, float]] = {model: {} for model in tested}
    for metric in metrics:
        p_values = [p_value(base, table, metric) for table in tested.values()]
        for model, p in zip(tested, corrected(p_values), strict=True):
            found[model][metric] = p
    return found


def p_value(base: pa.Table | None, other: pa.Table, metric: str) -> float:
    assert base is not None
    return randomization_test(base[metric].to_numpy(), other[metric].to_numpy(), permutations=PERMUTATIONS)


def with_queries_of(one: pa.Table | None, other: pa.Table | None) -> pa.Table | None:
    """`other` in the order of queries of `one`; None where queries, or their numbers of relevant documents, differ."""
    if one is None or other is None or one.num_rows != other.num_rows:
        return None
    places = pc.index_in(one["query_id"], value_set=other["query_id"])
    if places.null_count:
        return None
    aligned = other.take(places)
    return aligned if aligned["relevant"].equals(one["relevant"]) else None


def corrected(p_values: list[float]) -> list[float]:
    """Holm's correction: each p-value times how many are not smaller, never below a smaller one's, at most 1.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted

"""The page of an evaluation: report.html, which shows one model at a task, or two side by side."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gcl.data.record import Record
from gcl.errors import UserError
from gcl.page import write_page
from gcl.retrieval.pages.failures import clusters_of, evenly, failures_of, read_texts
from gcl.retrieval.pages.gallery import PICTURES, Query
from gcl.retrieval.pages.shown_queries import JUDGED_BY, MODELS, SearchedRows, ShownQueries, number_column, queries_of
from gcl.retrieval.result import Result
from gcl.retrieval.statistics import randomization_test

# What a metric is called, and what it says.
METRICS = {
    "ndcg@10": ("nDCG@10", "how high the relevant products stand among the first ten; 1 is the best order"),
    "recall@10": ("recall@10", "how many of the relevant products are among the first ten"),
    "mrr": ("MRR", "one divided by the rank of the first relevant product"),
    "map": ("mAP", "precision at the rank of each relevant product, averaged"),
    "precision@10": ("precision@10", "how many of the first ten are relevant"),
    "err": ("ERR", "one divided by the rank at which a shopper is content"),
    "rbp@0.7": ("RBP 0.7", "what a shopper finds who gives up soon"),
    "rbp@0.8": ("RBP 0.8", "what a shopper finds who looks on for a while"),
    "rbp@0.9": ("RBP 0.9", "what a patient shopper finds"),
}
SLICED = (JUDGED_BY, "recall@10", "mrr")  # shown of each slice
SIGNIFICANT = 0.05
RANKS = {"1": 1, "2–3": 3, "4–10": 10, "11–100": 100, "101–1000": math.inf}  # how people read them -> last of them
NOT_FOUND = "not found"
MANY = 12  # parts of a slice; more are folded away


@dataclass(frozen=True)
class Measure:
    """One number of each model, with its 95 % interval where there is one."""

    name: str
    values: list[float | None]
    intervals: list[tuple[float, float] | None]
    p: float | None = None  # of the paired test between two models

    @property
    def label(self) -> str:
        return METRICS[self.name][0]

    @property
    def meaning(self) -> str:
        return METRICS[self.name][1]

    @property
    def difference(self) -> float | None:
        """Last minus first."""
        first, last = self.values[0], self.values[-1]
        return None if first is None or last is None else last - first

    @property
    def verdict(self) -> str:
        """better or worse where the test says so, else nothing."""
        if self.p is None or self.p >= SIGNIFICANT or not self.difference:
            return ""
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Part:
    """A part of the queries."""

    value: str
    queries: int
    measures: list[Measure]


@dataclass(frozen=True)
class Bar:
    """How many queries of each model have their first relevant product at these ranks."""

    label: str
    counts: list[int]


def write_evaluation_report(path: Path, results: list[Result], rows: Callable[[int], Record] | None) -> None:
    """Write the page.

    Args:
        results: of one model, or of two at the same queries, of which the first is the baseline.
        rows: gives the record (fields, images) of a row of the searched split, by number. What it cannot read (it
            raises UserError) is shown by its id. None: the task has no rows, only ids.

    Raises:
        UserError: two results with different queries.
    """
    results, searched = with_the_same_order(results), SearchedRows(rows)
    shown = ShownQueries(results, searched)
    failures = [failures_of(queries_of(result), model) for model, result in enumerate(results)]
    looked_at = [failure for of_model in failures for failure in evenly(of_model)] if rows else []
    texts = read_texts(looked_at, searched)
    clusters = clusters_of(looked_at, texts)
    write_page(
        path,
        Path(__file__).with_name("evaluation_report.html"),
        labels=labels_of(results),
        models=MODELS,
        facts=facts_of(results[-1]),
        queries=len(queries_of(results[-1])),
        measures=measures_of(results),
        slices=slices_of(results),
        overall=results[-1].metrics[JUDGED_BY],
        many=MANY,
        bars=bars_of(results),
        failures=[len(of_model) for of_model in failures],
        compared=[sum(cluster.count(model) for cluster in clusters) for model in range(len(results))],
        clusters=[(cluster, cluster.confusions(texts), shown.pairs(cluster, texts)) for cluster in clusters],
        galleries=galleries_of(shown, {f.query for c in clusters if c.is_doubt for f in c.failures}),
        unreadable=searched.unreadable,
        has_rows=rows is not None,
        pictures=PICTURES,
        made=[json.dumps(made_of(result), indent=1) for result in results],
    )


def with_the_same_order(results: list[Result]) -> list[Result]:
    """The results with their queries in the order of the first."""
    ids = [queries_of(result)["query_id"] for result in results]
    if any(set(ids[0].to_pylist()) != set(other.to_pylist()) for other in ids):
        raise UserError(
            f"the results of {' and '.join(result.facts['model'] for result in results)} are of different queries; "
            "evaluate both models with the same task and data"
        )
    places = [pc.index_in(ids[0], value_set=other) for other in ids]
    return [replace(result, queries=queries_of(result).take(at)) for result, at in zip(results, places, strict=True)]


def labels_of(results: list[Result]) -> list[str]:
    """The models' names, told apart where they are the same."""
    names = [result.facts["model"] for result in results]
    return names if len(set(names)) == len(names) else [f"{name} ({i})" for i, name in enumerate(names, start=1)]


def facts_of(result: Result) -> dict[str, str]:
    """What the head of the page says of the task."""
    facts = result.facts
    sides = [" + ".join(facts[side] or {}) for side in ("left", "right")]
    data = {f"data {name}": value for name, value in facts["data"].items() if isinstance(value, str)}
    said = {
        "task": facts["task"],
        "regime": facts["regime"] and f"{facts['regime']}, {facts['sample_rows'] or 'all'} rows",
        "asks": sides[0],
        "answers": sides[1],
        "relevant by": facts.get("relevant"),
        "graded by": facts.get("weight"),
        "queries": f"{result.metrics['queries']:,}",
        "documents": f"{result.metrics['corpus']:,}",
        "dimensions": facts["dimensions"],
        **data,
    }
    return {label: str(value) for label, value in said.items() if value}


def made_of(result: Result) -> dict[str, Any]:
    """The facts that the page does not show otherwise."""
    return {name: value for name, value in result.facts.items() if name not in ("slices", "intervals")}


def measures_of(results: list[Result]) -> list[Measure]:
    """Every metric, with the paired test where there are two models."""
    measures = []
    for name in METRICS:
        columns = [number_column(queries_of(result), name) for result in results]
        p = randomization_test(columns[0], columns[1]) if len(columns) == 2 else None
        measures.append(measure_of(name, [(r.metrics, r.facts["intervals"]) for r in results], p))
    return measures


def measure_of(
    name: str, sources: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], p: float | None = None
) -> Measure:
    """One metric from the metrics and the intervals of each model."""
    values = [metrics.get(name) for metrics, _ in sources]
    intervals = [intervals.get(name) for _, intervals in sources]
    return Measure(name, values, [tuple(interval) if interval else None for interval in intervals], p)


def slices_of(results: list[Result]) -> dict[str, list[Part]]:
    """Each slice's parts in the order in which they were measured; a part that one model lacks is left out."""
    by_model = [{(part["slice"], part["value"]): part for part in result.facts["slices"]} for result in results]
    slices: dict[str, list[Part]] = {}
    for (name, value), part in by_model[0].items():
        if all((name, value) in parts for parts in by_model):
            sources = [(parts[name, value]["metrics"], parts[name, value]["intervals"]) for parts in by_model]
            measures = [measure_of(metric, sources) for metric in SLICED]
            slices.setdefault(name, []).append(Part(str(value), part["queries"], measures))
    return slices


def bars_of(results: list[Result]) -> list[Bar]:
    """The ranks of the first relevant products, in steps."""
    ranks = [number_column(queries_of(result), "first_relevant") for result in results]
    bars, before = [], 0.0
    for label, last in RANKS.items():
        bars.append(Bar(label, [int(((before < rank) & (rank <= last)).sum()) for rank in ranks]))
        before = last
    return [*bars, Bar(NOT_FOUND, [int((rank == 0).sum()) for rank in ranks])]


def galleries_of(shown: ShownQueries, doubtful: set[int]) -> list[tuple[str, str, list[Query]]]:
    """Heading, what it is about, and the queries; without those that would show nothing."""
    galleries, whose = [], "By nDCG@10"
    if len(shown.results) == 2:
        whose = "By nDCG@10 of the second model"
        galleries += [
            ("Queries that got better", "nDCG@10 rose most with the second model.", shown.changed(1)),
            ("Queries that got worse", "nDCG@10 fell most with the second model.", shown.changed(-1)),
        ]
    galleries += [
        ("Worst queries", f"{whose}; each has another first product.", shown.worst(doubtful)),
        ("Best queries", f"{whose}.", shown.best()),
    ]
    return [gallery for gallery in galleries if gallery[-1]]

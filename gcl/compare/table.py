"""Entries as tables: one for each task, regime and corpus, since only rows of one table can be set level."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from gcl.compare.entry import METRICS, Entry
from gcl.compare.notes import notes_on
from gcl.compare.published import REGIMES, is_level, load_published
from gcl.compare.significance import p_values_against

DIGITS = 3  # shown, as in the published tables; what is equal in them is equally good
MANY_RELEVANT = 10  # documents of the median query: with more, the first ten can't hold them, and precision is shown


@dataclass(frozen=True)
class Table:
    """The entries of a task that are of the same corpus."""

    entries: list[Entry]
    metrics: list[str]  # its columns
    p_values: dict[str, dict[str, float]] = field(default_factory=dict)  # model -> metric -> against the baseline
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        first = self.entries[0]
        return first.task + (f", {first.regime}" if first.regime else "")

    @property
    def subtitle(self) -> str:
        """How much was asked and searched, and where."""
        first = self.entries[0]
        if first.is_published:
            return "published rows"
        sizes = [(first.queries, "queries"), (first.corpus, "products")]
        parts = [f"{size:,} {what}" for size, what in sizes if size is not None]
        return ", ".join([*parts, *([first.place] if first.place else [])])

    def of(self, model: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.model == model), None)

    def p_value(self, entry: Entry, metric: str) -> float | None:
        """Against the baseline, corrected; None where nothing was tested."""
        return self.p_values.get(entry.model, {}).get(metric)

    def place(self, entry: Entry, metric: str) -> int:
        """1 for the best value of a column, 2 for the second, and so on; 0 where there is none or nothing to compare.

        Values that are equal as shown share a place.
        """
        values = {round(other.metrics[metric], DIGITS) for other in self.entries if metric in other.metrics}
        if len(values) < 2 or metric not in entry.metrics:
            return 0
        return sorted(values, reverse=True).index(round(entry.metrics[metric], DIGITS)) + 1


def build_tables(entries: Sequence[Entry], baseline: str) -> list[Table]:
    """One table for each task, regime and corpus, in the order of the entries, tested against the baseline."""
    groups: list[list[Entry]] = []
    for entry in entries:
        group = next((group for group in groups if all(is_same(entry, other) for other in group)), None)
        if group is None:
            groups.append([entry])
        else:
            group.append(entry)
    groups.sort(key=lambda group: (regime_place(group[0]), first_place(entries, group[0])))
    columns = columns_of(entries)
    return [build_table(group, groups[:place], columns[group[0].task], baseline) for place, group in enumerate(groups)]


def build_table(group: list[Entry], earlier: list[list[Entry]], metrics: list[str], baseline: str) -> Table:
    above = next((other for other in earlier if is_same_task(other[0], group[0])), None)
    return Table(group, metrics, p_values_against(baseline, group, metrics), notes_on(group, above))


def choose_published(measured: Sequence[Entry], published: bool | None) -> list[Entry]:
    """Marqo's rows: all, none, or (None) those of tasks and regimes that were measured."""
    if published is False:
        return []
    asked = {(entry.task, entry.regime) for entry in measured}
    return [entry for entry in load_published() if published or (entry.task, entry.regime) in asked]


def is_same(one: Entry, other: Entry) -> bool:
    """Whether two entries are of the same rows, as far as can be known."""
    if (one.task, one.regime) != (other.task, other.regime):
        return False
    if one.is_published != other.is_published:
        return is_level(one, other) if one.is_published else is_level(other, one)
    is_same_data = one.data is None or other.data is None or one.data == other.data
    return is_same_data and one.corpus == other.corpus


def regime_place(entry: Entry) -> int:
    """Published regimes before others, hard before easy."""
    return REGIMES.index(entry.regime) if entry.regime in REGIMES else len(REGIMES)


def first_place(entries: Sequence[Entry], entry: Entry) -> int:
    """Where the first entry of the same task and regime stands."""
    return next(place for place, other in enumerate(entries) if is_same_task(other, entry))


def is_same_task(one: Entry, other: Entry) -> bool:
    return (one.task, one.regime) == (other.task, other.regime)


def columns_of(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Task -> its columns: precision@10 in the place of recall@10 where queries have many relevant documents.

    As in the published tables for their tasks; for others, by the median query.
    """
    known = {entry.task: "precision@10" in entry.metrics for entry in load_published()}
    relevant = defaultdict(list)
    for entry in entries:
        if entry.per_query is not None and len(entry.per_query):
            relevant[entry.task].append(pc.quantile(entry.per_query["relevant"], q=0.5)[0].as_py())
    is_precise = {name: max(medians) > MANY_RELEVANT for name, medians in relevant.items()} | known
    return {
        entry.task: [name for name in METRICS if name != left_out(is_precise.get(entry.task, False))]
        for entry in entries
    }


def left_out(is_precise: bool) -> str:
    return "recall@10" if is_precise else "precision@10"

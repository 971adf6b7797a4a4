"""What stands in the cells of a table, whatever it is written as."""

from dataclasses import dataclass

from gcl.compare.entry import METRICS, Entry
from gcl.compare.gains import Gain
from gcl.compare.significance import mark_of
from gcl.compare.table import DIGITS, Table
from gcl.retrieval.pages.charts import typeset

NONE = "–"
LATENCIES = {"text": "text ms", "image": "image ms"}


@dataclass(frozen=True)
class Cell:
    """A value as people read it."""

    value: str
    interval: str = ""
    spread: str = ""  # half of the interval, where there is little room
    mark: str = ""  # of significance
    place: int = 0  # 1 the best of the column, 2 the second

    @property
    def is_empty(self) -> bool:
        return self.value == NONE

    @property
    def is_best(self) -> bool:
        return self.place == 1

    @property
    def is_second(self) -> bool:
        return self.place == 2


def headings_of(table: Table) -> list[str]:
    """Of the columns behind the model's name."""
    return [*(METRICS[name] for name in table.metrics), *(LATENCIES.values() if has_latency(table) else [])]


def cells_of(table: Table, entry: Entry) -> list[Cell]:
    """One row, in the order of headings_of."""
    return [metric_cell(table, entry, name) for name in table.metrics] + latency_cells(table, entry)


def metric_cell(table: Table, entry: Entry, metric: str) -> Cell:
    if metric not in entry.metrics:
        return Cell(NONE)
    value, mark = f"{entry.metrics[metric]:.{DIGITS}f}", mark_of(table.p_value(entry, metric))
    if metric not in entry.intervals:
        return Cell(value, mark=mark, place=table.place(entry, metric))
    low, high = entry.intervals[metric]
    interval, spread = f"[{low:.{DIGITS}f}, {high:.{DIGITS}f}]", f"±{(high - low) / 2:.{DIGITS}f}"
    return Cell(value, interval, spread, mark, table.place(entry, metric))


def latency_cells(table: Table, entry: Entry) -> list[Cell]:
    if not has_latency(table):
        return []
    return [Cell(f"{getattr(entry.latency, name):.1f}" if entry.latency else NONE) for name in LATENCIES]


def has_latency(table: Table) -> bool:
    return any(entry.latency for entry in table.entries)


def gain_words(gain: Gain | None) -> tuple[str, str]:
    """Such as "+17.6 %" and "3 tasks"."""
    if gain is None:
        return NONE, ""
    return typeset(f"{100 * gain.mean:+.1f}") + " %", f"{gain.tasks} {'task' if gain.tasks == 1 else 'tasks'}"

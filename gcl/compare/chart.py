"""The values of one metric as dots with their intervals, one row for each model, as inline SVG."""

from dataclasses import dataclass

from markupsafe import Markup

from gcl.compare.cells import metric_cell
from gcl.compare.entry import METRICS, Entry
from gcl.compare.table import Table
from gcl.retrieval.pages.charts import Axis, joined, round_ticks

WIDTH, LEFT, RIGHT = 300, 6, 294  # user units; near the pixels of one card, so that text keeps its size
ROW, NAME, DOT = 34, 12, 21  # height of a model's row; where in it the name and the dot stand
AXIS = 20  # height of the axis
NAME_LENGTH = 38  # characters that fit; the whole name is in the tooltip


@dataclass(frozen=True)
class IntervalChart:
    """A titled card."""

    title: str
    svg: Markup


def charts_of(table: Table, baseline: str) -> list[IntervalChart]:
    """A chart for each metric of a table; none where there is nothing to compare."""
    if len(table.entries) < 2:
        return []
    return [IntervalChart(METRICS[metric], interval_svg(table, metric, baseline)) for metric in table.metrics]


def interval_svg(table: Table, metric: str, baseline: str) -> Markup:
    """Axis, a dashed line at the baseline's value, and the models in the order of the table."""
    shown = [entry for entry in table.entries if metric in entry.metrics]
    if not shown:
        return Markup("")
    axis, bottom = metric_axis(shown, metric), ROW * len(shown)
    parts = [axis_svg(axis, bottom)]
    base = next((entry for entry in shown if entry.model == baseline), None)
    if base:
        line = Markup('<line class="baseline" x1="{0}" x2="{0}" y1="4" y2="{1}"/>')
        parts.append(line.format(axis(base.metrics[metric]), bottom))
    parts += [row_svg(table, entry, metric, axis, ROW * row) for row, entry in enumerate(shown)]
    spoken = "; ".join(f"{entry.model} {metric_cell(table, entry, metric).value}" for entry in shown)
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}: {}">{}</svg>')
    return svg.format(WIDTH, bottom + AXIS, METRICS[metric], spoken, joined(parts))


def metric_axis(shown: list[Entry], metric: str) -> Axis:
    """Between the round numbers that enclose the values and their intervals."""
    values = [end for entry in shown for end in (entry.metrics[metric], *entry.intervals.get(metric, ()))]
    low, high = min(values), max(values)
    if high - low < 1e-3:  # nothing to tell apart
        low, high = low - 0.05, high + 0.05
    ticks = round_ticks(low, high)
    return Axis(ticks[0], ticks[-1], ticks, LEFT + 8, RIGHT - 8)


def axis_svg(axis: Axis, bottom: int) -> Markup:
    mark = Markup(
        '<line class="grid" x1="{0}" x2="{0}" y1="4" y2="{1}"/><text x="{0}" y="{2}" text-anchor="middle">{3}</text>'
    )
    return joined(mark.format(at, bottom, bottom + 14, label) for at, label in axis.labels)


def row_svg(table: Table, entry: Entry, metric: str, axis: Axis, top: int) -> Markup:
    """The model's name, and below it the dot with its interval; a published one's is hollow."""
    middle, cell = top + DOT, metric_cell(table, entry, metric)
    name = entry.model if len(entry.model) <= NAME_LENGTH else entry.model[: NAME_LENGTH - 1] + "…"
    guide = Markup('<text x="{0}" y="{1}">{2}</text><line class="grid" x1="{0}" x2="{3}" y1="{4}" y2="{4}"/>')
    parts = [guide.format(LEFT, top + NAME, name, RIGHT, middle)]
    if metric in entry.intervals:
        low, high = entry.intervals[metric]
        parts.append(Markup('<path d="M{0},{2}H{1}"/>').format(axis(low), axis(high), middle))
    parts.append(Markup('<circle cx="{}" cy="{}" r="4"/>').format(axis(entry.metrics[metric]), middle))
    row = Markup('<g class="{}"><title>{}: {} {}</title>{}</g>')
    kind = "published" if entry.is_published else "measured"
    return row.format(kind, entry.model, cell.value, cell.interval, joined(parts))

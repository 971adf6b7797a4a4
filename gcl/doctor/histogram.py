"""Histograms as inline SVG, in the style of the curves of a run's report."""

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gcl.retrieval.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    joined,
    readable,
    round_ticks,
    tick_label,
    value_axis,
)

BINS = 30  # about as many
MARK_ROOM = 2.5  # times the highest value: a mark up to there is drawn, and the axis goes on to it
MOST = 0.995  # share of the values up to which the axis goes; the others are counted in the last bar


@dataclass(frozen=True)
class Histogram:
    """How many of what have which value."""

    title: str
    unit: str  # below the axis
    values: np.ndarray  # (n,) numbers
    counts: np.ndarray  # (n,) how often each occurs
    mark: float | None = None  # a value that matters, drawn as a line
    mark_label: str = ""

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def svg(self) -> Markup:
        return svg_from_histogram(self)


def histogram_of(
    title: str, unit: str, values: np.ndarray, mark: float | None = None, mark_label: str = ""
) -> Histogram:
    """Of plain values, each of which occurs once."""
    return Histogram(title, unit, values, np.ones(len(values), np.int64), mark, mark_label)


def bins_of(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, bool]:
    """Round edges (bins + 1,), the count of each bin (bins,), and whether the last one holds all that lies beyond."""
    there = histogram.counts > 0
    order = np.argsort(histogram.values[there])
    values, counts = histogram.values[there][order].astype(float), histogram.counts[there][order]
    low, high = values[0], values[np.searchsorted(np.cumsum(counts), MOST * counts.sum())]
    if histogram.mark and high < histogram.mark <= MARK_ROOM * high:
        high = histogram.mark
    is_whole = bool((values == values.round()).all())
    step = round_step((high - low) / BINS, is_whole)
    room = 3 if high == low else 0  # around a single value
    edges = np.arange(math.floor(low / step) - room, math.floor(high / step) + 2 + room) * step
    if is_whole and step == 1:
        edges = edges - 0.5  # a bar stands above its number
    places = np.clip(np.searchsorted(edges, values + 1e-9 * step, side="right") - 1, 0, len(edges) - 2)
    return edges, np.bincount(places, counts, minlength=len(edges) - 1), bool(values[-1] >= edges[-1])


def round_step(rough: float, is_whole: bool) -> float:
    """1, 2 or 5 times a power of ten, at least `rough`; at least 1 among whole numbers."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * 0.999)
    return max(1.0, step) if is_whole else step


def svg_from_histogram(histogram: Histogram) -> Markup:
    """The SVG element: axes, bars with a tooltip each, and the mark."""
    if not histogram.total:
        return Markup("")
    edges, counts, has_more = bins_of(histogram)
    ticks = [tick for tick in round_ticks(edges[0], edges[-1]) if edges[0] <= tick <= edges[-1]]
    x = Axis(edges[0], edges[-1], ticks, LEFT, RIGHT)
    y = value_axis(counts.tolist(), from_zero=True)
    parts = [axes_svg(x, y, histogram.unit), *bars_svg(edges, counts, has_more, x, y)]
    if histogram.mark is not None and edges[0] <= histogram.mark <= edges[-1]:
        parts.append(mark_svg(x(histogram.mark), histogram.mark_label))
    spoken = f"{histogram.title}: {histogram.total:,}, from {readable(histogram.values[histogram.counts > 0].min())}"
    spoken += f" to {readable(histogram.values[histogram.counts > 0].max())} {histogram.unit}"
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDTH, HEIGHT, spoken, joined(parts))


def axes_svg(x: Axis, y: Axis, unit: str) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = [line.format(LEFT, RIGHT, at, at) + text.format(LEFT - 6, at + 4, "end", label) for at, label in y.labels]
    step = x.ticks[1] - x.ticks[0] if len(x.ticks) > 1 else 1.0
    for tick in x.ticks:
        at = x(tick)
        parts.append(text.format(at, BOTTOM + 16, "end" if at > RIGHT - 8 else "middle", tick_label(tick, step)))
    parts.append(text.format((LEFT + RIGHT) / 2, HEIGHT - 5, "middle", unit))
    return joined(parts)


def bars_svg(edges: np.ndarray, counts: np.ndarray, has_more: bool, x: Axis, y: Axis) -> list[Markup]:
    bar = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>')
    bars = []
    for place, count in enumerate(counts.tolist()):
        left, right = x(edges[place]), x(edges[place + 1])
        top = min(y(count), BOTTOM - 1.5)  # what is there is seen
        width, height = max(1.0, round(right - left - 1, 1)), round(BOTTOM - top, 1)
        label = bin_label(edges[place], edges[place + 1], has_more and place == len(counts) - 1)
        bars += [bar.format(left, top, width, height, label, readable(count))] if count else []
    return bars


def bin_label(low: float, high: float, is_open: bool) -> str:
    """What a bar counts, in words."""
    if high - low == 1 and low % 1 == 0.5:
        return f"{readable(low + 0.5)}{' and more' if is_open else ''}"
    return f"{readable(low)} and more" if is_open else f"{readable(low)} to under {readable(high)}"


def mark_svg(at: float, label: str) -> Markup:
    """A vertical line with a label on the side that has room."""
    line = Markup(
        '<line class="limit" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{3}" y="{4}" text-anchor="{5}">{6}</text>'
    )
    is_right = at > (LEFT + RIGHT) / 2
    return line.format(
        at, TOP - 4, BOTTOM, at - 4 if is_right else at + 4, TOP + 4, "end" if is_right else "start", label
    )

"""Curves over training steps as inline SVG, coloured by the page's own style so that they follow light and dark."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 190  # user units; near the pixels of one card, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 48, 350, 10, 154  # edges of the plotting area
DOTS = 40  # a series with more points is drawn without a dot for each
BUCKETS = 300  # a longer series is thinned to the least and the greatest value in each of so many buckets

Point = tuple[int, float]  # (step, value)


@dataclass(frozen=True)
class Series:
    """One curve; a value that is not finite breaks the line."""

    name: str
    points: list[Point]

    @property
    def finite(self) -> list[Point]:
        return [point for point in self.points if math.isfinite(point[1])]

    @property
    def broken_steps(self) -> list[int]:
        return [step for step, value in self.points if not math.isfinite(value)]

    @property
    def last(self) -> str:
        return readable(self.points[-1][1])


@dataclass(frozen=True)
class Chart:
    """A titled card of one to three curves on one axis; a series without points is left out."""

    title: str
    measured: list[Series]
    from_zero: bool = False

    @property
    def series(self) -> list[Series]:
        return [series for series in self.measured if series.points]

    @property
    def svg(self) -> Markup:
        return svg_from_chart(self)


@dataclass(frozen=True)
class Axis:
    """The range `low`..`high`, mapped to the coordinates `start`..`end`, with its ticks."""

    low: float
    high: float
    ticks: list[float]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def labels(self) -> list[tuple[float, str]]:
        step = self.ticks[1] - self.ticks[0]
        return [(self(tick), tick_label(tick, step)) for tick in self.ticks]


def step_axis(steps: list[int]) -> Axis:
    """From 0 to the last step exactly, with ticks at whole steps."""
    high = max(1, *steps)
    ticks = [tick for tick in round_ticks(0, high) if tick <= high and tick == int(tick)]
    return Axis(0, high, ticks, LEFT, RIGHT)


def value_axis(values: list[float], from_zero: bool) -> Axis:
    """Between the round numbers that enclose the values."""
    low, high = min([0.0, *values] if from_zero else values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, drawn in the middle
        margin = abs(high) / 2 or 1.0
        low, high = low - margin, high + margin
    ticks = round_ticks(low, high)
    return Axis(ticks[0], ticks[-1], ticks, BOTTOM, TOP)


def svg_from_chart(chart: Chart) -> Markup:
    """The SVG element of a chart: axes, then the curves, numbered by the classes s1, s2, s3."""
    finite = [point for series in chart.series for point in series.finite]
    if not finite:
        return Markup("")
    x = step_axis([step for step, _ in finite])
    y = value_axis([value for _, value in finite], chart.from_zero)
    curves = [curve_svg(series, number, x, y) for number, series in enumerate(chart.series, start=1)]
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>')
    return svg.format(WIDTH, HEIGHT, spoken(chart), axes_svg(x, y), joined(curves))


def axes_svg(x: Axis, y: Axis) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = [line.format(LEFT, RIGHT, at, at) + text.format(LEFT - 6, at + 4, "end", label) for at, label in y.labels]
    for at, label in x.labels:
        # The last label stays inside the drawing.
        parts.append(text.format(min(at, RIGHT), BOTTOM + 16, "end" if at == RIGHT else "middle", label))
    parts.append(text.format((LEFT + RIGHT) / 2, HEIGHT - 5, "middle", "step"))
    return joined(parts)


def curve_svg(series: Series, number: int, x: Axis, y: Axis) -> Markup:
    """One polyline for each unbroken stretch, and a dot with a tooltip for each point of a short series."""
    stretches = unbroken(series.points)
    lines = [" ".join(f"{x(step)},{y(value)}" for step, value in thinned(stretch)) for stretch in stretches]
    dotted = series.finite if len(series.points) <= DOTS else [s[0] for s in stretches if len(s) == 1]
    polyline = Markup('<polyline points="{}"/>')
    dot = Markup('<circle cx="{}" cy="{}" r="2.6"><title>{}, step {}: {}</title></circle>')
    dots = [dot.format(x(step), y(value), series.name, step, readable(value)) for step, value in dotted]
    drawn = joined([polyline.format(line) for line in lines] + dots)
    return Markup('<g class="s{}">{}</g>').format(number, drawn)


def unbroken(points: list[Point]) -> list[list[Point]]:
    """The stretches of finite values between values that are not."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def thinned(points: list[Point]) -> list[Point]:
    """At most 2 x BUCKETS points: the least and the greatest of each bucket, so that no spike is lost."""
    if len(points) <= 2 * BUCKETS:
        return points
    size = math.ceil(len(points) / BUCKETS)
    buckets = [points[start : start + size] for start in range(0, len(points), size)]
    return [p for bucket in buckets for p in sorted({min(bucket, key=value_of), max(bucket, key=value_of)})]


def value_of(point: Point) -> float:
    return point[1]


def round_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers, evenly spaced, from at most `low` to at least `high`."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """As many digits as tell ticks that are `step` apart; 12k for 12000, 2e-5 for 0.00002."""
    if value == 0:
        return "0"
    if step >= 1000 and abs(value) >= 10_000:
        return typeset(f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k")
    if step < 1e-3:
        return typeset(f"{value:.2g}" if abs(value) >= 1e-3 else f"{value:.1e}".replace(".0e", "e"))
    return typeset(f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}")


def readable(value: float) -> str:
    """Four digits for a reader; "not finite" where there is no number."""
    if not math.isfinite(value):
        return "not finite"
    return typeset(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def typeset(number: str) -> str:
    """A minus sign for the hyphen of a negative number, and e-5 for e-05."""
    number = number.replace("e-0", "e-")
    return "\u2212" + number[1:] if number.startswith("-") else number


def spoken(chart: Chart) -> str:
    """The chart in words, for a reader who does not see it."""
    curves = []
    for series in chart.series:
        if series.finite:
            (first, start), (last, end) = series.finite[0], series.finite[-1]
            curves.append(f"{series.name} from {readable(start)} at step {first} to {readable(end)} at step {last}")
    return f"{chart.title}: {'; '.join(curves)}"


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)

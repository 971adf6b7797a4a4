"""Relative gains over a baseline, as averages over tasks.

A gain is the mean of each task's own relative gain, (value - baseline) / baseline. From its published table that gives
what Marqo claims, each to a tenth of a percent: +17.6 % MRR and +20.5 % nDCG@10 over ViT-SO400M-14-SigLip, +38.9 % and
+45.1 % over Amazon Titan. The gains of the tasks' mean values are others (+37.7 % MRR over Titan).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from gcl.compare.entry import METRICS, Entry
from gcl.compare.table import Table


@dataclass(frozen=True)
class Gain:
    """A mean of relative gains: 0.176 is +17.6 %."""

    mean: float
    tasks: int  # so many


@dataclass(frozen=True)
class Gains:
    """One model's gains over the baseline, in one regime."""

    model: str
    is_published: bool
    regime: str | None
    by_metric: dict[str, Gain]


def build_gains(tables: list[Table], baseline: str) -> list[Gains]:
    """Every model's gains, from the tables that hold it beside the baseline; regimes are never averaged together.

    Those of published models are of interest only over one of them.
    """
    found: dict[tuple[str | None, str], dict[str, list[float]]] = {}
    published = {}
    for regime, entry, metric, gain in relative_gains(tables, baseline):
        found.setdefault((regime, entry.model), defaultdict(list))[metric].append(gain)
        published[entry.model] = entry.is_published
    return [
        Gains(
            model,
            published[model],
            regime,
            {name: Gain(sum(gains[name]) / len(gains[name]), len(gains[name])) for name in METRICS if name in gains},
        )
        for (regime, model), gains in found.items()
    ]


def relative_gains(tables: list[Table], baseline: str) -> Iterator[tuple[str | None, Entry, str, float]]:
    """Regime, entry, metric and gain, for each shown value beside a baseline's that is not 0."""
    for table in tables:
        base = table.of(baseline)
        if base is None:
            continue
        for entry in table.entries:
            if entry is base or (entry.is_published and not base.is_published):
                continue
            for metric in table.metrics:
                if metric in entry.metrics and base.metrics.get(metric):
                    yield entry.regime, entry, metric, entry.metrics[metric] / base.metrics[metric] - 1

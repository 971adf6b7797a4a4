"""A comparison as one value a line (compare.csv)."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from gcl.compare.comparison import Comparison
from gcl.compare.entry import METRICS

COLUMNS = (
    "model", "source", "task", "regime", "metric", "value", "low", "high", "p_value", "queries", "corpus", "folder"
)  # fmt: skip


def csv_from_comparison(comparison: Comparison) -> str:
    """With COLUMNS; what is not known is empty, and p_value is against the baseline, corrected."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(comparison))
    return text.getvalue()


def rows_of(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for table in comparison.tables:
        for entry in table.entries:
            facts = {
                "model": entry.model,
                "source": "published" if entry.is_published else "measured",
                "task": entry.task,
                "regime": entry.regime,
                "queries": entry.queries,
                "corpus": entry.corpus,
                "folder": entry.folder,
            }
            for metric in METRICS:
                if metric in entry.metrics:
                    low, high = entry.intervals.get(metric, (None, None))
                    measured = {"value": entry.metrics[metric], "low": low, "high": high}
                    yield {**facts, "metric": metric, **measured, "p_value": table.p_value(entry, metric)}
            if entry.latency:
                for name in ("text", "image"):
                    yield {**facts, "metric": f"{name}_milliseconds", "value": getattr(entry.latency, name)}

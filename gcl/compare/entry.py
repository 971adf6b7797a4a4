"""What is known of one model at one task, measured here or published elsewhere."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

# Names in metrics.json and in the published table -> what the tables call them.
METRICS = {"map": "mAP", "recall@10": "R@10", "precision@10": "P@10", "mrr": "MRR", "ndcg@10": "nDCG@10"}


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one text and for one image, from latency.json."""

    device: str
    text: float
    image: float


@dataclass(frozen=True)
class Entry:
    """One model at one task.

    `per_query` is gcl.retrieval.result's table, without which nothing is tested. `data` tells one corpus from another;
    None: not known, then its size must do. `facts` holds what else may differ between two evaluations.
    """

    model: str
    task: str
    regime: str | None
    metrics: dict[str, float]  # those of METRICS that were measured
    is_published: bool = False
    queries: int | None = None
    corpus: int | None = None  # documents that were searched
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    data: str | None = None
    place: str = ""  # of the data, as people read it
    facts: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    run: Path | None = None  # the folder that was named, in which this one was found
    per_query: pa.Table | None = None
    latency: Latency | None = None


def readable(name: Any) -> str:
    """A name on one line, without characters that a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(name)).split())

"""What one model did at one task, as files that `gcl compare` and the report read.

FOLDER/metrics.json        means over queries
FOLDER/evaluation.json     model, task and data; intervals; slices
FOLDER/per_query.parquet   one row for each query
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic

from gcl.errors import UserError
from gcl.files import write_text

METRICS, FACTS, PER_QUERY = "metrics.json", "evaluation.json", "per_query.parquet"
SLICE = "slice:"  # before the name of a slice, in the table of queries


class SliceFacts(pydantic.BaseModel):
    """A part of the queries."""

    slice: str
    value: str
    queries: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class Facts(pydantic.BaseModel):
    """What a page or a comparison needs of evaluation.json; it may come from anybody."""

    model: str
    task: str
    regime: str | None
    sample_rows: int | None
    left: dict[str, float] | None
    right: dict[str, float] | None
    dimensions: int | None
    data: dict[str, str | bool | int | None | list[str]]
    intervals: dict[str, tuple[float, float]]
    slices: list[SliceFacts]


SHOWN = 10  # retrieved and relevant documents that are kept of each query


@dataclass(frozen=True)
class Result:
    """A model at a task.

    `facts` has these keys: model, identity (what the embeddings depend on), task, regime ("hard", "easy" or null),
    sample_rows, left, right, dimensions, data ({"path", "split", "fingerprint"} or the files of a precomputed task),
    intervals ({metric: [low, high]}), slices ([{"slice", "value", "queries", "metrics", "intervals"}]).

    `queries` has, for each query: query_id, query (as people read it), relevant (how many documents are), each of
    metrics.QUERY_METRICS, first_relevant (its rank, 0: none within depth), `slice:NAME` for each slice; and for the
    report retrieved_ids, retrieved_rows (numbers of rows of the split, or of the corpus file), retrieved_scores and
    retrieved_grades (the first SHOWN), relevant_ids and relevant_rows (at most SHOWN, best first). A loss has no query
    and no column.
    """

    facts: dict[str, Any]
    metrics: dict[str, Any]
    queries: pa.Table


def write_result(result: Result, folder: Path) -> None:
    """Write the files, metrics.json last: where it is, all are."""
    folder.mkdir(parents=True, exist_ok=True)
    if result.queries.num_columns:
        temporary = folder / f"{PER_QUERY}.tmp"
        pq.write_table(result.queries, temporary)
        temporary.rename(folder / PER_QUERY)
        write_text(folder / FACTS, json.dumps(result.facts, indent=1) + "\n")
    write_text(folder / METRICS, json.dumps(result.metrics, indent=1) + "\n")


def load_result(folder: Path) -> Result:
    """Read a folder that `gcl evaluate` wrote.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        if not isinstance(metrics, dict):
            raise ValueError(f"{METRICS} holds no object")
        Facts.model_validate(facts)
        return Result(facts, metrics, pq.read_table(folder / PER_QUERY))
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        said = str(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            said = f"{FACTS} {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{folder} is no result of gcl evaluate ({said}); write one with `gcl evaluate checkpoint=C task=T "
            f"output_dir={folder}`"
        ) from error

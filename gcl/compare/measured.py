"""Folders as people name them to the entries in them: results of `gcl evaluate`, and training runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcl.compare.entry import METRICS, Entry, Latency, readable
from gcl.errors import UserError
from gcl.parts import nearest
from gcl.retrieval.result import FACTS, Result, load_result
from gcl.retrieval.result import METRICS as METRICS_FILE

LEVELS = 3  # folders below the one that is named, as in RUN/MODEL/TASK
START = "step_00000000"
LATENCY = "latency.json"
COLUMNS = ["query_id", "query", "relevant", "first_relevant", *METRICS]  # of the table of queries
# Facts that make it another question.
ASKED = ("sample_rows", "relevant", "weight", "max_queries", "sampling")
# Facts in which two evaluations of one task may differ: said, but set level.
SAME_TASK = ("left", "right", "dimensions", "context_length")


def load_entries(run: Path) -> list[Entry]:
    """Every result in a folder, in the order of their paths.

    Raises:
        UserError: there is no such folder, nothing was evaluated in it, or a file cannot be read.
    """
    if not run.is_dir():
        near = nearest(run.name, [path.name for path in run.parent.glob("*/")])
        raise UserError(f"{run} is no folder{near}; name one that gcl evaluate or a training run wrote")
    entries = entries_below(run, run, LEVELS)
    if not entries:
        raise UserError(
            f"nothing in {run} was evaluated; write results into it with `gcl evaluate checkpoint=C task=T "
            f"output_dir={run / 'NAME'}`"
        )
    return entries


def entries_below(folder: Path, run: Path, levels: int) -> list[Entry]:
    if steps := evaluated_steps(folder):
        return trained(folder, run, steps)
    own = [evaluated(folder, run)] if (folder / METRICS_FILE).is_file() else []
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if levels else []
    return own + [entry for path in inner for entry in entries_below(path, run, levels - 1)]


def evaluated(folder: Path, run: Path, model: str | None = None) -> Entry:
    """A result; `model` where it does not say itself whose it is, as a training run's."""
    result = load_result(folder)
    metrics = numbers(result.metrics, folder / METRICS_FILE)
    missing = [name for name in COLUMNS if name not in result.queries.column_names]
    if missing:
        raise UserError(f"{folder} has no {missing[0]} of each query; evaluate again with this gcl")
    try:
        entry = entry_from_result(result, metrics, model or result.facts["model"], folder, run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}/evaluation.json is not what gcl evaluate writes ({error!r}); do it again") from error
    return replace(entry, latency=find_latency(folder, entry.model))


def entry_from_result(result: Result, metrics: dict[str, float], model: str, folder: Path, run: Path) -> Entry:
    facts, data = result.facts, result.facts.get("data") or {}
    fingerprint, regime = data.get("fingerprint"), readable(facts.get("regime") or "")
    return Entry(
        readable(model),
        # conf/task names a task of the easy regime NAME_easy; it is NAME that was published.
        readable(facts["task"]).removesuffix(f"_{regime}"),
        regime or None,
        metrics,
        queries=count(result.metrics, "queries"),
        corpus=count(result.metrics, "corpus"),
        intervals={name: (float(low), float(high)) for name, (low, high) in (facts.get("intervals") or {}).items()},
        # Of a sample, the rows are a function of the split and of their number.
        data=fingerprint and json.dumps([data.get("split"), fingerprint, [facts.get(name) for name in ASKED]]),
        place=readable(" ".join(str(data[name]) for name in ("path", "split") if name in data)),
        facts={name: facts.get(name) for name in SAME_TASK},
        folder=folder,
        run=run,
        per_query=result.queries.select(COLUMNS),
    )


def evaluated_steps(folder: Path) -> list[Path]:
    """The evaluations of a training run, first step first."""
    return sorted(step for step in (folder / "evaluation").glob("step_*") if step.is_dir() and not step.suffix)


def trained(folder: Path, run: Path, steps: list[Path]) -> list[Entry]:
    """A training run's start, where it was evaluated, and its last evaluated step."""
    name = readable(folder.resolve().name)
    latency = find_latency(folder, name)
    entries = []
    for step in steps:
        if step.name == START:
            entries += tasks_in(step, run, f"{name} (start)")
        elif step is steps[-1]:
            entries += [replace(entry, latency=latency) for entry in tasks_in(step, run, name)]
    return entries


def tasks_in(step: Path, run: Path, model: str) -> list[Entry]:
    """What one step of a run was evaluated at; earlier versions wrote no results by query."""
    entries = []
    for file in sorted(step.glob(f"*/{METRICS_FILE}")):
        metrics = read_object(file)
        if "queries" not in metrics:  # the validation loss, beside the tasks
            continue
        if (file.parent / FACTS).is_file():
            entries.append(evaluated(file.parent, run, model))
        else:
            task, values = readable(file.parent.name), numbers(metrics, file)
            queries, corpus = count(metrics, "queries"), count(metrics, "corpus")
            entries.append(Entry(model, task, None, values, False, queries, corpus, folder=file.parent, run=run))
    return entries


def numbers(metrics: Any, file: Path) -> dict[str, float]:
    """The values of METRICS that are there.

    Raises:
        UserError: none is, or one is no number.
    """
    if not isinstance(metrics, dict) or not metrics.keys() & METRICS.keys():
        raise UserError(f"{file} has none of {', '.join(METRICS)}; it is not what gcl evaluate writes")
    found = {name: metrics[name] for name in METRICS if name in metrics}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            shown = "null" if value is None else repr(value)
            raise UserError(f"{file} has {name} {shown}, which is no number to compare; evaluate that model again")
    return {name: float(value) for name, value in found.items()}


def count(metrics: dict[str, Any], name: str) -> int | None:
    value = metrics.get(name)
    return value if isinstance(value, int) else None


def find_latency(folder: Path, model: str) -> Latency | None:
    """The model's own latency.json, in the folder of its result or one of the two above.

    Raises:
        UserError: it cannot be read.
    """
    for place in (folder, *list(folder.resolve().parents)[:2]):
        if (place / LATENCY).is_file():
            found = read_object(place / LATENCY)
            try:
                # A run's name is followed by the checkpoint's; a folder of results may hold other models' latency.
                if f"{readable(found['model'])}/".startswith(f"{model}/"):
                    device = readable(found.get("device_name") or found["device"])
                    return Latency(device, float(found["text_milliseconds"]), float(found["image_milliseconds"]))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{place / LATENCY} is not what gcl latency writes ({error!r}); do it again") from error
    return None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); evaluate again") from error

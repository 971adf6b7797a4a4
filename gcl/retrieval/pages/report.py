"""The page of a training run: report.html, which shows the start beside the result and needs no network.

Its numbers come from the run's files, its pictures from the evaluation corpus. Colours, spacing and words of the
page are in the template beside this file.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from gcl.data.record import Record
from gcl.page import write_page
from gcl.retrieval.pages.charts import Chart, Series
from gcl.retrieval.pages.gallery import PICTURES, RETRIEVED, Gallery, found
from gcl.retrieval.result import PER_QUERY

REPORT = "report.html"
HEADLINE_TASK, HEADLINE_NUMBER = "title2image", "ndcg@10"
COMPARED = ("ndcg@10", "recall@10", "mrr", "map", "precision@10", "loss")
CURVES = COMPARED[:3]
EXAMPLES = 12  # queries that are shown with what they retrieved
LOWER_IS_BETTER = {"loss"}
DIGITS = 4  # shown of every compared number; a difference beyond them is none
# Facts of config.yaml for the head of the page, where the run has them: label -> path of keys.
FACTS = {
    "model": ("model", "architecture"),
    "image tower": ("model", "image_tower"),
    "batch size": ("train", "batch_size"),
    "learning rate": ("optim", "lr"),
    "seed": ("seed",),
}


@dataclass(frozen=True)
class Comparison:
    """One number of one task at the start and at the last evaluation; None where it was not measured."""

    name: str
    start: float | None
    end: float | None

    @property
    def difference(self) -> float:
        """End minus start as it is shown; both are there."""
        assert self.start is not None and self.end is not None
        return round(round(self.end, DIGITS) - round(self.start, DIGITS), DIGITS) + 0.0  # no -0.0

    @property
    def verdict(self) -> str:
        """better, worse, same, or nothing; an end that is not a finite number is worse."""
        if self.start is None or self.end is None:
            return ""
        if not math.isfinite(self.end):
            return "worse"
        if not math.isfinite(self.start):
            return "better"
        gain = -self.difference if self.name in LOWER_IS_BETTER else self.difference
        return "better" if gain > 0 else "worse" if gain < 0 else "same"


@dataclass(frozen=True)
class Task:
    """What was measured for one task: evaluation step -> metrics.json, and -> the examples by query."""

    name: str
    metrics: dict[int, dict[str, Any]]
    examples: dict[int, dict[str, dict[str, Any]]]

    @property
    def end(self) -> int | None:
        """The last evaluated step after the start."""
        return max((step for step in self.metrics if step > 0), default=None)

    @property
    def comparisons(self) -> list[Comparison]:
        start, end = self.metrics.get(0, {}), self.metrics.get(self.end or -1, {})
        names = [name for name in COMPARED if name in start or name in end]
        return [Comparison(name, number(start, name), number(end, name)) for name in names]

    @property
    def headline(self) -> Comparison | None:
        return next((comparison for comparison in self.comparisons if comparison.name == HEADLINE_NUMBER), None)

    @property
    def best(self) -> int:
        """The step whose headline number is the greatest, the latest of equals."""
        finite = self.series(HEADLINE_NUMBER).finite
        return max(finite, key=lambda point: (point[1], point[0]))[0] if finite else 0

    @property
    def shown_examples(self) -> dict[int, dict[str, dict[str, Any]]]:
        """The examples of the start and of the last evaluation, those of them that there are."""
        return {step: self.examples[step] for step in (0, self.end) if step is not None and self.examples.get(step)}

    def series(self, name: str) -> Series:
        values = {step: number(metrics, name) for step, metrics in sorted(self.metrics.items())}
        return Series(name, [(step, value) for step, value in values.items() if value is not None])


def write_report(run: Path, rows: Callable[[int], Record]) -> Path:
    """Write run/report.html from the run's files, any of which may still be missing. Main process only.

    Args:
        run: the run's folder.
        rows: gives the record (fields, images) of a row of the evaluation corpus, by number.
    """
    tasks = load_tasks(run)
    log, unreadable = load_log(run)
    config = yaml.safe_load(text_of(run / "config.yaml")) or {}
    gallery = Gallery(rows)
    write_page(
        run / REPORT,
        Path(__file__).with_name(REPORT),
        name=run.resolve().name,
        facts=facts_of(config, run),
        last_step=log[-1]["step"] if log else None,
        max_steps=value_at(config, ("train", "max_steps")),
        tasks=tasks,
        ends=sorted({task.end for task in tasks if task.end is not None}),
        infinity=math.inf,
        worse=[(task, c) for task in tasks for c in task.comparisons if c.verdict == "worse"],
        compared=any(c.verdict for task in tasks for c in task.comparisons),
        charts=[chart for chart in charts_of(log, tasks) if chart.svg],
        unreadable=unreadable,
        galleries=[
            (task, queries, found(queries)) for task in tasks if (queries := gallery.queries(task.shown_examples))
        ],
        pictures=PICTURES,
        config=text_of(run / "config.yaml"),
        environment=text_of(run / "environment.json"),
    )
    return run / REPORT


def load_tasks(run: Path) -> list[Task]:
    """Every evaluated task with all its steps, the headline task first."""
    tasks: dict[str, Task] = {}
    for path in sorted(run.glob("evaluation/step_????????/*/metrics.json")):
        step, name = int(path.parts[-3].removeprefix("step_")), path.parts[-2]
        task = tasks.setdefault(name, Task(name, {}, {}))
        task.metrics[step] = json.loads(path.read_text(encoding="utf-8"))
        task.examples[step] = {example["query"]: example for example in load_examples(path.with_name(PER_QUERY))}
    return sorted(tasks.values(), key=lambda task: (task.name != HEADLINE_TASK, task.headline is None, task.name))


def load_examples(table: Path) -> list[dict[str, Any]]:
    """The first queries with what they retrieved: a random sample, the same at every step."""
    if not table.is_file():
        return []
    columns = ["query", "relevant", "relevant_rows", "first_relevant", *RETRIEVED]
    return list(pq.read_table(table, columns=columns).slice(0, EXAMPLES).to_pylist())


def load_log(run: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics.jsonl by step, and how many could not be read.

    A run that died may have left half a line; a resumed run logs some steps again, and the later line counts.
    """
    by_step: dict[int, dict[str, Any]] = {}
    unreadable = 0
    for line in text_of(run / "metrics.jsonl").splitlines():
        try:
            logged = json.loads(line)
            by_step[logged["step"]] = logged
        except json.JSONDecodeError:
            unreadable += 1
    return [by_step[step] for step in sorted(by_step)], unreadable


def charts_of(log: list[dict[str, Any]], tasks: list[Task]) -> list[Chart]:
    """The small multiples of the page; one without any finite value draws nothing."""

    def logged(name: str, label: str) -> Series:
        values = [(line["step"], number(line, name)) for line in log]
        return Series(label, [(step, value) for step, value in values if value is not None])

    retrieval = [task for task in tasks if task.headline]
    validation = [Series(t.name.removesuffix("_loss"), t.series("loss").points) for t in tasks if not t.headline]
    return [
        Chart("Loss", [logged("loss", "training"), *validation]),
        *(Chart(f"Retrieval: {t.name}", [t.series(name) for name in CURVES], from_zero=True) for t in retrieval),
        Chart("Learning rate", [logged("lr", "learning rate")], from_zero=True),
        Chart("Gradient norm", [logged("grad_norm", "gradient norm")], from_zero=True),
        Chart("Logit scale", [logged("logit_scale", "logit scale")]),
        Chart("Logit bias", [logged("logit_bias", "logit bias")]),
        Chart("Samples per second", [logged("samples_per_second", "samples per second")], from_zero=True),
    ]


def facts_of(config: dict[str, Any], run: Path) -> dict[str, str]:
    """What the head of the page says of the run: from config.yaml, then every short entry of environment.json."""
    facts = {label: value_at(config, path) for label, path in FACTS.items()}
    environment = json.loads(text_of(run / "environment.json") or "{}")
    facts |= {name.replace("_", " "): in_words(value) for name, value in environment.items() if name != "command"}
    return {label: str(value) for label, value in facts.items() if value is not None and len(str(value)) <= 60}


def in_words(value: Any) -> Any:
    """A list of names as "4 x NVIDIA H100"; a table of versions as nothing."""
    if isinstance(value, list):
        return ", ".join(f"{value.count(name)} × {name}" for name in dict.fromkeys(map(str, value)))
    return None if isinstance(value, dict) else value


def value_at(config: Any, path: tuple[str, ...]) -> str | int | float | None:
    """The number or word at a path of keys, or None."""
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config if isinstance(config, str | int | float) else None


def number(values: dict[str, Any], name: str) -> float | None:
    """A number, NaN where null stands for it, None where it was not measured."""
    if name not in values:
        return None
    return math.nan if values[name] is None else float(values[name])


def text_of(path: Path) -> str:
    """What a file says; nothing while it is not there."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""

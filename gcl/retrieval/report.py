"""The page of a training run: report.html, which shows the start beside the result and needs no network.

Its numbers come from the run's files, its pictures from the evaluation corpus. Colours, spacing and words of the
page are in the template beside this file.
"""

import base64
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from gcl.data.record import Record
from gcl.retrieval.charts import Chart, Series

REPORT = "report.html"
HEADLINE_TASK, HEADLINE_NUMBER = "title2image", "ndcg@10"
COMPARED = ("ndcg@10", "recall@10", "mrr", "map", "precision@10", "loss")
CURVES = COMPARED[:3]
LOWER_IS_BETTER = {"loss"}
DIGITS = 4  # shown of every compared number; a difference beyond them is none
PICTURES = 5  # shown of those a query retrieved
THUMBNAIL = 120  # longer side, pixels
# Facts of config.yaml for the head of the page, where the run has them: label -> path of keys.
FACTS = {
    "model": ("model", "name"),
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

    def series(self, name: str) -> Series:
        values = {step: number(metrics, name) for step, metrics in sorted(self.metrics.items())}
        return Series(name, [(step, value) for step, value in values.items() if value is not None])


@dataclass(frozen=True)
class Picture:
    """A retrieved product; `uri` is its thumbnail, None where it has no readable picture."""

    uri: str | None
    title: str
    rank: int
    score: float
    is_relevant: bool


@dataclass(frozen=True)
class Row:
    """What one model retrieved for a query."""

    model: str  # "start" or "step 800"
    pictures: list[Picture]
    first_relevant: int | None  # rank among all that is kept of the ranking
    depth: int  # how many of the ranking are kept


@dataclass(frozen=True)
class Query:
    """One query of a task with a row for the start and one for the tuned model."""

    text: str
    wanted: str | None  # data: URI of a relevant product
    wanted_title: str
    relevant: int
    rows: list[Row]


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
    # Autoescape is what keeps a product's title from becoming markup.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template(REPORT).render(
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
        galleries=[(task, queries, found(queries)) for task in tasks if (queries := gallery.queries(task))],
        pictures=PICTURES,
        config=text_of(run / "config.yaml"),
        environment=text_of(run / "environment.json"),
    )
    temporary = run / (REPORT + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    return temporary.rename(run / REPORT)


def load_tasks(run: Path) -> list[Task]:
    """Every evaluated task with all its steps, the headline task first."""
    tasks: dict[str, Task] = {}
    for path in sorted(run.glob("evaluation/step_????????/*/metrics.json")):
        step, name = int(path.parts[-3].removeprefix("step_")), path.parts[-2]
        task = tasks.setdefault(name, Task(name, {}, {}))
        task.metrics[step] = json.loads(path.read_text(encoding="utf-8"))
        examples = json.loads(text_of(path.with_name("examples.json")) or '{"examples": []}')["examples"]
        task.examples[step] = {example["query"]: example for example in examples}
    return sorted(tasks.values(), key=lambda task: (task.name != HEADLINE_TASK, task.headline is None, task.name))


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


class Gallery:
    """Turns corpus rows into thumbnails, each once."""

    def __init__(self, rows: Callable[[int], Record]) -> None:
        self._rows = rows
        self._seen: dict[int, tuple[str | None, str]] = {}

    def queries(self, task: Task) -> list[Query]:
        """The example queries of the last evaluation, or of the start while there is no other."""
        steps = [step for step in (0, task.end) if step is not None and task.examples.get(step)]
        return [self._query(task, text, steps) for text in task.examples[steps[-1]]] if steps else []

    def _query(self, task: Task, text: str, steps: list[int]) -> Query:
        relevant = task.examples[steps[-1]][text]["relevant"]
        wanted, title = self._picture(relevant[0]) if relevant else (None, "")
        examples = {step: task.examples[step][text] for step in steps if text in task.examples[step]}
        return Query(text, wanted, title, len(relevant), [self._row(step, e) for step, e in examples.items()])

    def _row(self, step: int, example: dict[str, Any]) -> Row:
        relevant = set(example["relevant"])
        ranked = list(enumerate(example["retrieved"], start=1))
        first = next((rank for rank, hit in ranked if hit["row"] in relevant), None)
        pictures = [
            Picture(*self._picture(hit["row"]), rank, hit["score"], hit["row"] in relevant)
            for rank, hit in ranked[:PICTURES]
        ]
        return Row(f"step {step}" if step else "start", pictures, first, len(ranked))

    def _picture(self, row: int) -> tuple[str | None, str]:
        if row not in self._seen:
            record = self._rows(row)
            encoded = next(iter(record.images.values()), b"")
            self._seen[row] = thumbnail(encoded), str(record.fields.get("title", record.item_id))
        return self._seen[row]


def found(queries: list[Query]) -> dict[str, int]:
    """For each model, how many of the queries show a relevant picture."""
    counts: dict[str, int] = {}
    for row in (row for query in queries for row in query.rows):
        counts[row.model] = counts.get(row.model, 0) + any(picture.is_relevant for picture in row.pictures)
    return counts


def thumbnail(encoded: bytes) -> str | None:
    """A small JPEG as a data: URI, upright and on white; None where the bytes are not a picture."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    white = Image.new("RGBA", upright.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, upright).convert("RGB").save(file, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


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

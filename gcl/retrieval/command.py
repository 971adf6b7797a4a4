"""`gcl evaluate`: retrieval metrics of a run, a checkpoint or a published model.

gcl evaluate checkpoint=runs/quickstart task=title2image
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gcl.config import load_settings
from gcl.data.batch import build_batch_builder
from gcl.data.images import ImageReader
from gcl.data.shards import ShardReader
from gcl.distributed import Precision, leave, start_processes
from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import Part, build_as
from gcl.retrieval.embed import Corpus
from gcl.retrieval.evaluate import Result, evaluate_task
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.load import Loaded, load_model

SHOWN = ("ndcg@10", "recall@10", "mrr", "map", "precision@10", "err", "queries", "corpus")


@dataclass
class SearchedData:
    """The rows that are searched."""

    path: str | None = None  # folder written by gcl prepare; null: the run's
    split: str = "validation"  # which of its splits
    workers: int = 2  # worker processes that decode images, per process


@dataclass
class EvaluateSettings:
    """Search one split with one model and measure."""

    checkpoint: str  # a run, a checkpoint folder, a .pt or .safetensors file, ViT-B-16-SigLIP/webli, hf-hub:ORG/NAME
    task: RetrievalTask  # what asks and what answers
    data: SearchedData = field(default_factory=SearchedData)  # what is searched
    output_dir: str | None = None  # folder for metrics.json and examples.json; null: only printed
    batch_size: int = 128  # rows encoded at once, per process
    precision: Precision | None = None  # of the towers' matrix products; null: the run's, or float32
    model: Part | None = None  # architecture of a .pt or .safetensors file


def main(arguments: list[str]) -> None:
    chosen = load_settings("evaluate", EvaluateSettings, arguments)
    settings: EvaluateSettings = build_as(EvaluateSettings, {**chosen, "model": None})
    loaded = load_model(settings.checkpoint, chosen["model"])
    settings.task.check_dimensions(loaded.model.dimensions)
    reader = build_reader(loaded, settings.checkpoint, settings.data)
    accelerator = start_processes(precision_of(loaded, settings.precision))
    corpus = build_corpus(loaded, reader, settings.task.fields, settings.batch_size, settings.data.workers)
    model = accelerator.prepare_model(loaded.model, evaluation_mode=True)
    result = evaluate_task(settings.task, corpus.embed(model, accelerator), corpus.rows)
    if accelerator.is_main_process:
        show(result, loaded.name)
        if settings.output_dir:
            write_result(result, Path(settings.output_dir).expanduser())
    leave()


def precision_of(loaded: Loaded, precision: Precision | None) -> Precision:
    """The one that is given, or the run's."""
    trained_in: Precision = loaded.settings["train"]["precision"] if loaded.settings else "float32"
    return precision or trained_in


def build_reader(loaded: Loaded, checkpoint: str, data: SearchedData) -> ShardReader:
    """The rows to search: those that are named, or the run's."""
    path = data.path or (loaded.settings["data"]["path"] if loaded.settings else None)
    if path is None:
        raise UserError(f"checkpoint {checkpoint} does not say what to search; give data.path=FOLDER")
    return ShardReader(path, data.split)


def build_corpus(loaded: Loaded, reader: ShardReader, fields: list[str], batch_size: int, workers: int) -> Corpus:
    """The rows with a builder of these fields, for the model's image size and tokenizer."""
    image = loaded.model.image
    image_reader = ImageReader(image.size, image.interpolation, image.resize_mode)
    builder = build_batch_builder(reader, fields, [], image_reader, loaded.model.tokenizer)
    return Corpus(reader, builder, batch_size, workers, shows_progress=True)


def show(result: Result, name: str) -> None:
    table = Table("metric", "value", title=name)
    for metric in SHOWN:
        value = result.metrics[metric]
        table.add_row(metric, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)


def write_result(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "examples.json", json.dumps({"examples": result.examples}, indent=1) + "\n")
    write_text(folder / "metrics.json", json.dumps(result.metrics, indent=1) + "\n")

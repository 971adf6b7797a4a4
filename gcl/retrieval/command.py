"""`gcl evaluate`: retrieval metrics of a run, a checkpoint, a published model, or of embeddings from files.

gcl evaluate checkpoint=runs/quickstart task=title2image output_dir=results/quickstart
accelerate launch --num_processes 8 -m gcl evaluate checkpoint=hf-hub:ORG/NAME task=title2image data.path=DIR
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from gcl.config import chosen_option, load_settings
from gcl.distributed import Precision, from_main_process, is_main_process, leave, start_processes
from gcl.encoders.load import LoadedEncoder, load_encoder
from gcl.errors import UserError
from gcl.parts import Part, build, build_as
from gcl.progress import progress_bar
from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.embeddings.joined_reader import JoinedReader, Reader, build_reader, described
from gcl.retrieval.embeddings.row_store import stored_rows
from gcl.retrieval.embeddings.store import EmbeddingStore, StoredType
from gcl.retrieval.evaluate import build_result, evaluate_task, retrieve
from gcl.retrieval.pages.evaluation_report import write_evaluation_report
from gcl.retrieval.precomputed.task import PrecomputedTask
from gcl.retrieval.result import Result, write_result
from gcl.retrieval.tasks import RetrievalTask

SHOWN = ("ndcg@10", "recall@10", "mrr", "map", "precision@10", "err", "rbp@0.7", "rbp@0.8", "rbp@0.9")
REPORT = "report.html"


@dataclass
class SearchedData:
    """The rows that are searched."""

    path: str | None = None  # folder written by gcl prepare; null: the run's
    split: str = "validation"  # which of its splits
    corpus: list[str] = field(default_factory=list)  # further folders, whose rows are searched too but ask nothing
    workers: int = 2  # worker processes that decode images, per process


@dataclass
class StoreSettings:
    """Embeddings on disk: found again for the same weights, preprocessing and data, gone on with after a kill."""

    folder: str = "~/.cache/gcl/embeddings"  # on a disk that all processes see; it may be removed at any time
    type: StoredType = "float32"  # float16: half the disk, and scores that differ in the fourth digit


@dataclass
class EvaluateSettings:
    """Search one split with one model and measure."""

    task: Part  # what asks, what answers and what is relevant
    checkpoint: str | None = None  # run, file of weights, ViT-B-16-SigLIP/webli, hf-hub:NAME, transformers:NAME ...
    data: SearchedData = field(default_factory=SearchedData)  # what is searched
    output_dir: str | None = None  # folder for metrics.json, per_query.parquet and report.html; null: only printed
    embeddings: StoreSettings = field(default_factory=StoreSettings)  # where they are kept
    batch_size: int = 128  # rows encoded at once, per process
    precision: Precision | None = None  # of the towers' matrix products; null: the run's, or float32
    model: Part | None = None  # architecture of a .pt or .safetensors file
    trust_remote_code: bool = False  # run Python code that comes with a transformers: or sentence-transformers: model

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} must be at least 1")


def main(arguments: list[str]) -> None:
    chosen = load_settings("evaluate", EvaluateSettings, arguments)
    settings: EvaluateSettings = build_as(EvaluateSettings, {**chosen, "model": None, "task": None})
    task, name = build(chosen["task"]), chosen_option("evaluate", "task", arguments)
    output = Path(settings.output_dir).expanduser() if settings.output_dir else None
    if output is not None and output.is_file():
        raise UserError(f"output_dir {output} is a file; give a folder")
    if isinstance(task, PrecomputedTask):
        result, reader = evaluate_precomputed(task, name, settings), None
    elif isinstance(task, RetrievalTask):
        result, reader = evaluate_model(task, name, settings, chosen["model"])
    else:
        raise UserError(f"task is a {type(task).__name__}; give a RetrievalTask or a PrecomputedTask")
    if is_main_process():
        show(result)
        if output is not None:
            write_evaluation_report_beside(result, reader, output)
    leave()


def evaluate_model(
    task: RetrievalTask, name: str, settings: EvaluateSettings, model: Part | None
) -> tuple[Result, Reader]:
    """Embed what the task needs of a split and measure (all ranks participate)."""
    if settings.checkpoint is None:
        raise UserError("checkpoint must be set: a run, a checkpoint folder or file, or a published model's name")
    loaded = load_encoder(settings.checkpoint, model, settings.trust_remote_code)
    task.check_dimensions(loaded.encoder.dimensions)
    reader = reader_of(loaded, settings.checkpoint, settings.data)
    reader.split_fields(task.columns)
    accelerator = start_processes(precision_of(loaded, settings.precision))
    folder = Path(settings.embeddings.folder).expanduser()
    embedder = build_embedder(loaded, reader, task.columns, accelerator, settings, folder)
    facts = {"model": loaded.encoder.name, "identity": embedder.identity, "task": name, "data": described(reader)}
    with torch.inference_mode():
        return evaluate_task(task, embedder, embedder.rows, reader.kinds, facts, asking_rows(reader)), reader


def evaluate_precomputed(task: PrecomputedTask, name: str, settings: EvaluateSettings) -> Result:
    """Search and measure embeddings from files (all ranks participate)."""
    accelerator = start_processes("float32")
    loaded = task.load()
    if is_main_process():
        for warning in loaded.warnings:
            print(f"gcl: warning: {warning}", file=sys.stderr)
    with progress_bar(is_main_process()) as progress:
        retrieved = retrieve(loaded.questions, loaded.queries.to(accelerator.device), loaded.corpus, progress)
    facts = {
        "model": settings.checkpoint or Path(task.corpus).stem,
        "identity": {},
        "task": name,
        "regime": None,
        "sample_rows": None,
        "left": None,
        "right": None,
        "dimensions": task.dimensions,
        "data": loaded.facts,
    }
    return build_result(retrieved, np.arange(len(loaded.corpus)), facts)


def asking_rows(reader: Reader) -> int:
    """How many rows ask, from the first on."""
    return len(reader.readers[0]) if isinstance(reader, JoinedReader) else len(reader)


def precision_of(loaded: LoadedEncoder, precision: Precision | None) -> Precision:
    """The one that is given, or the run's."""
    trained_in: Precision = loaded.settings["train"]["precision"] if loaded.settings else "float32"
    return precision or trained_in


def reader_of(loaded: LoadedEncoder, checkpoint: str, data: SearchedData) -> Reader:
    """The rows to search: those that are named, or the run's."""
    path = data.path or (loaded.settings["data"]["path"] if loaded.settings else None)
    if path is None:
        raise UserError(f"checkpoint {checkpoint} does not say what to search; give data.path=FOLDER")
    return build_reader(path, data.split, data.corpus)


def build_embedder(
    loaded: LoadedEncoder,
    reader: Reader,
    columns: list[str],
    accelerator: Accelerator,
    settings: EvaluateSettings,
    folder: Path,
) -> Embedder:
    """An embedder of a split, with the model on the device (all ranks participate)."""
    texts = [name for name in columns if name not in reader.split_fields(columns)[0]]
    rows = stored_rows(reader, texts, folder, settings.data.workers)
    return Embedder(
        loaded.encoder.to(accelerator.device),
        reader,
        rows,
        accelerator,
        settings.batch_size,
        settings.data.workers,
        EmbeddingStore(folder, settings.embeddings.type),
        shows_progress=True,
        identity=from_main_process(loaded.encoder.identity() if is_main_process() else {}),
    )


def show(result: Result) -> None:
    """Print the means with their intervals."""
    facts, metrics = result.facts, result.metrics
    table = Table("metric", "value", "95 % interval", title=f"{facts['model']}: {facts['task']}")
    for metric in SHOWN:
        low, high = facts["intervals"][metric]
        table.add_row(metric, f"{metrics[metric]:.4f}", f"{low:.4f} to {high:.4f}")
    console = Console()
    console.print(table)
    console.print(f"{metrics['queries']:,} queries, {metrics['corpus']:,} documents", highlight=False)


def write_evaluation_report_beside(result: Result, reader: Reader | None, folder: Path) -> None:
    """Write the result's files and its page."""
    write_result(result, folder)
    write_evaluation_report(folder / REPORT, [result], reader.__getitem__ if reader else None)
    Console().print(f"report: {folder / REPORT}", soft_wrap=True, highlight=False)

"""A model on the rows of a split: embedded, searched and measured."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from gcl.distributed import Precision, from_main_process, is_main_process, start_processes
from gcl.encoders.load import LoadedEncoder, load_encoder
from gcl.errors import UserError
from gcl.files import make_folder
from gcl.parts import Part
from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.embeddings.joined_reader import JoinedReader, Reader, build_reader, described
from gcl.retrieval.embeddings.row_store import stored_rows
from gcl.retrieval.embeddings.store import EmbeddingStore
from gcl.retrieval.evaluate import evaluate_task
from gcl.retrieval.result import Result
from gcl.retrieval.settings import EvaluateSettings, SearchedData
from gcl.retrieval.tasks import RetrievalTask


def evaluate_model(
    task: RetrievalTask, name: str, settings: EvaluateSettings, model: Part | None
) -> tuple[Result, Reader]:
    """Embed what the task needs of a split and measure (all ranks participate)."""
    if settings.checkpoint is None:
        raise UserError("checkpoint must be set: a run, a checkpoint folder or file, or a published model's name")
    reader = None
    if settings.data.path is not None:  # checked before any weight is loaded
        reader = build_reader(settings.data.path, settings.data.split, settings.data.corpus)
        reader.split_fields(task.columns)
    loaded = load_encoder(settings.checkpoint, model, settings.trust_remote_code)
    task.check_dimensions(loaded.encoder.dimensions)
    reader = reader or reader_of(loaded, settings.checkpoint, settings.data)
    reader.split_fields(task.columns)
    accelerator = start_processes(precision_of(loaded, settings.precision))
    folder = Path(settings.embeddings.folder).expanduser()
    if is_main_process():
        make_folder(folder, "embeddings.folder")
    if own := [name for name in task.left if name in task.right and is_main_process()]:
        print(f"gcl: warning: {own[0]} asks and answers: a query finds its product by its own text", file=sys.stderr)
    embedder = build_embedder(loaded, reader, task.columns, accelerator, settings, folder)
    facts = {"model": loaded.encoder.name, "identity": embedder.identity, "task": name, "data": described(reader)}
    with torch.inference_mode():
        asking = asking_rows(reader)
        return evaluate_task(task, embedder, embedder.rows, reader.kinds, facts, accelerator.device, asking), reader


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

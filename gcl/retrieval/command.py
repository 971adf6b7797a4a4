"""`gcl evaluate`: retrieval metrics of a run, a checkpoint, a published model, or of embeddings from files.

gcl evaluate checkpoint=runs/quickstart task=title2image output_dir=results/quickstart
accelerate launch --num_processes 8 -m gcl evaluate checkpoint=hf-hub:ORG/NAME task=title2image data.path=DIR
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gcl.config import chosen_option, load_settings
from gcl.distributed import is_main_process, leave, start_processes
from gcl.errors import UserError
from gcl.files import make_folder
from gcl.parts import build, build_as
from gcl.progress import progress_bar
from gcl.retrieval.embeddings.joined_reader import Reader
from gcl.retrieval.evaluate import build_result, retrieve
from gcl.retrieval.pages.evaluation_report import write_evaluation_report
from gcl.retrieval.precomputed.task import PrecomputedTask
from gcl.retrieval.result import Result, write_result
from gcl.retrieval.settings import EvaluateSettings
from gcl.retrieval.tasks import RetrievalTask

SHOWN = ("ndcg@10", "recall@10", "mrr", "map", "precision@10", "err", "rbp@0.7", "rbp@0.8", "rbp@0.9")
REPORT = "report.html"
OF_MODELS = ("data", "embeddings", "batch_size", "precision", "model", "trust_remote_code")  # settings


def main(arguments: list[str]) -> None:
    chosen = load_settings("evaluate", EvaluateSettings, arguments)
    settings: EvaluateSettings = build_as(EvaluateSettings, {**chosen, "model": None, "task": None})
    task, name = build(chosen["task"]), chosen_option("evaluate", "task", arguments)
    output = Path(settings.output_dir).expanduser() if settings.output_dir else None
    if output is not None:
        make_folder(output, "output_dir")
    if isinstance(task, PrecomputedTask):
        warn_of_unused(arguments)
        result, reader = evaluate_precomputed(task, name, settings), None
    elif isinstance(task, RetrievalTask):
        # open_clip and transformers take seconds to import, and embeddings from files need neither.
        from gcl.retrieval.model_evaluation import evaluate_model  # noqa: PLC0415

        result, reader = evaluate_model(task, name, settings, chosen["model"])
    else:
        raise UserError(f"task is a {type(task).__name__}; give a RetrievalTask or a PrecomputedTask")
    if is_main_process():
        show(result)
        if output is not None:
            write_evaluation_report_beside(result, reader, output)
    leave()


def warn_of_unused(arguments: list[str]) -> None:
    """Say which settings do nothing where embeddings come from files."""
    for argument in arguments:
        if argument.partition("=")[0].partition(".")[0] in OF_MODELS:
            print(f"gcl: warning: {argument} has no effect: this task's embeddings come from files", file=sys.stderr)


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


def show(result: Result) -> None:
    """Print the means with their intervals."""
    facts, metrics = result.facts, result.metrics
    table = Table("metric", "value", "95 % interval", title=f"{facts['model']}: {facts['task']}")
    for metric in SHOWN:
        low, high = facts["intervals"][metric]
        table.add_row(metric, f"{metrics[metric]:.4f}", f"{low:.4f} to {high:.4f}")
    console = Console()
    console.print(table)
    console.print(f"queries: {metrics['queries']:,}; documents: {metrics['corpus']:,}", highlight=False)


def write_evaluation_report_beside(result: Result, reader: Reader | None, folder: Path) -> None:
    """Write the result's files and its page."""
    write_result(result, folder)
    write_evaluation_report(folder / REPORT, [result], reader.__getitem__ if reader else None)
    Console().print(f"report: {folder / REPORT}", soft_wrap=True, highlight=False)

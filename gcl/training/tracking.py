"""Where a run shows its progress, and how it shows it in a terminal."""

import atexit
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

HEADLINE = ("ndcg@10", "recall@10", "mrr", "loss")


class Tracker(Protocol):
    """Follows a run on the main process."""

    def begin(self, run: Path, settings: dict[str, Any], step: int, max_steps: int) -> None: ...

    def log(self, row: dict[str, Any]) -> None: ...

    def log_evaluation(self, step: int, metrics: dict[str, dict[str, Any]]) -> None: ...

    def finish(self) -> None: ...


class ConsoleTracker:
    """A progress bar in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    def begin(self, run: Path, settings: dict[str, Any], step: int, max_steps: int) -> None:
        self.console.print(f"run {run}: steps {step} to {max_steps}", highlight=False)
        self.max_steps = max_steps
        self.task = self.progress.add_task("", total=max_steps, completed=step)
        self.progress.start()
        atexit.register(self.progress.stop)  # a run that ends early gives the terminal its cursor back

    def log(self, row: dict[str, Any]) -> None:
        shown = f"loss {row['loss']:.4f}  lr {row['lr']:.1e}  {row['samples_per_second']:.0f} samples/s"
        self.progress.update(self.task, completed=row["step"], description=shown)
        if not self.console.is_terminal:
            self.console.print(f"step {row['step']}/{self.max_steps}  {shown}", highlight=False)

    def log_evaluation(self, step: int, metrics: dict[str, dict[str, Any]]) -> None:
        for name, values in metrics.items():
            numbers = "  ".join(f"{key} {values[key]:.4f}" for key in HEADLINE if key in values)
            self.console.print(f"step {step}  {name}  {numbers}", highlight=False)

    def finish(self) -> None:
        self.progress.stop()

"""Where a run shows its progress: the terminal, and wandb when it is chosen."""

import os
import uuid
from pathlib import Path
from typing import Any, Literal, Protocol

import wandb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gcl.errors import UserError

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


class WandbTracker:
    """Weights & Biases: config, curves and metrics; a resumed run goes on under the same id."""

    def __init__(
        self,
        project: str = "gcl",  # wandb project
        mode: Literal[
            "online", "offline"
        ] = "online",  # offline: written to the run directory, sent later by `wandb sync`
        entity: str | None = None,  # wandb user or team; null: your default
        group: str | None = None,  # wandb group
    ) -> None:
        self.project, self.mode, self.entity, self.group = project, mode, entity, group

    def begin(self, run: Path, settings: dict[str, Any], step: int, max_steps: int) -> None:
        """Start or go on with the wandb run.

        Raises:
            UserError: wandb cannot be reached or does not know who you are.
        """
        id_file = run / "wandb_run_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            self.run = wandb.init(
                project=self.project,
                mode=self.mode,
                entity=self.entity,
                group=self.group,
                dir=run,
                name=run.name,
                id=id_file.read_text(),
                resume="allow",
                config=settings,
            )
        except wandb.Error as error:
            raise UserError(
                f"wandb does not start: {str(error).splitlines()[0]}; run `wandb login`, or set tracking.mode=offline"
            ) from error

    def log(self, row: dict[str, Any]) -> None:
        self.run.log({f"train/{key}": value for key, value in row.items() if key != "step"}, step=row["step"])

    def log_evaluation(self, step: int, metrics: dict[str, dict[str, Any]]) -> None:
        numbers = {
            f"{name}/{key}": value
            for name, values in metrics.items()
            for key, value in values.items()
            if isinstance(value, int | float)
        }
        self.run.log(numbers, step=step)

    def finish(self) -> None:
        self.run.finish()

"""A run's progress in Weights & Biases."""

import os
import uuid
from pathlib import Path
from typing import Any, Literal

import wandb

from gcl.errors import UserError


class WandbTracker:
    """Weights & Biases: config, curves and metrics; a resumed run goes on under the same id."""

    def __init__(
        self,
        project: str = "gcl",  # wandb project
        mode: Literal["online", "offline"] = "online",  # offline: kept in the run directory, sent later by `wandb sync`
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

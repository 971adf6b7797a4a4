"""A run directory: where everything that a run leaves behind is written, atomically."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import TARGET, Settings, check_parts, flat
from gcl.retrieval.result import Result, write_result
from gcl.training.environment import environment

# Settings that may change when a run is resumed: they decide neither what is learned nor what is measured.
FREE_TO_CHANGE = (
    "output_dir",
    "resume",
    "tracking",
    "data.path",
    "data.negatives",  # its content is part of the fingerprint
    "data.workers",
    "data.mixture",  # as with data.path, what it holds is part of the fingerprint
    "data.cache",
    "train.max_steps",
    "train.micro_batch_size",
    "train.activation_checkpointing",
    "train.log_every",
    "train.eval_every",
    "train.save_every",
    "train.keep_checkpoints",
    "train.eval_batch_size",
    "train.max_undecodable_share",
)
# Settings without which nobody can evaluate or export a run.
NEEDED = {"model._target_", "model.load_weights", "data.path", "data.validation_split", "train.precision"}


class RunDirectory:
    """The files of one run; only the main process writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check(self, settings: Settings, resume: bool) -> None:
        """Refuse a directory that is taken, unless a run in it is resumed with the settings it was started with.

        Raises:
            UserError: naming the first setting that differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir {self.path} is a file; choose another")
        if self.path.exists() and any(self.path.iterdir()) and not (self.path / "config.yaml").exists():
            raise UserError(f"output_dir {self.path} holds other files and no run; choose another")
        if not self.metrics_file.exists():
            return
        if not resume:
            raise UserError(
                f"output_dir {self.path} already holds a run; go on with resume=true, or choose another output_dir"
            )
        before, now = flat(self._saved()), flat(settings)
        for name in {**before, **now}:
            if before.get(name) != now.get(name) and not name.startswith(FREE_TO_CHANGE):
                raise UserError(
                    f"{self.path} was trained with {name}={before.get(name)}, this command says {now.get(name)}; "
                    "resume with the same, or start anew in another output_dir"
                )

    def begin(self, settings: Settings, processes: int) -> None:
        """Write what was asked for and where it runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(self.path / "environment.json", json.dumps(environment(processes), indent=1) + "\n")

    def keep_until(self, step: int) -> None:
        """Drop what was logged and evaluated after `step`: those steps will be taken again."""
        for folder in (self.path / "evaluation").glob("step_*"):
            if folder.name > step_name(step) or folder.suffix:
                shutil.rmtree(folder)
        if self.metrics_file.exists():
            rows = [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]
            write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def log(self, row: dict[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def evaluation(self, step: int) -> Path:
        return self.path / "evaluation" / step_name(step)

    def write_evaluation(self, step: int, results: dict[str, Result]) -> None:
        """Write each result's files to evaluation/STEP/NAME, all or none."""
        folder = self.evaluation(step)
        temporary = folder.with_name(folder.name + ".tmp")
        for name, result in results.items():
            write_result(result, temporary / name)
        temporary.rename(folder)

    def settings(self) -> Settings:
        """The settings the run was started with, for a run that may come from anybody.

        Raises:
            UserError: they cannot be read, are not a run's, or name parts that are not gcl's own.
        """
        try:
            settings = check_parts(self._saved())
        except RecursionError as error:
            raise UserError(f"{self.path / 'config.yaml'} refers to itself") from error
        missing = NEEDED - flat(settings).keys()
        if missing:
            raise UserError(f"{self.path / 'config.yaml'} is no training run's: it does not say {min(missing)}")
        if not str(settings["model"].get(TARGET)).startswith("gcl.models."):
            raise UserError(f"{self.path / 'config.yaml'} names a model that is not one of gcl.models")
        return settings

    def _saved(self) -> Settings:
        file = self.path / "config.yaml"
        try:
            settings: Settings = yaml.safe_load(file.read_text())
            if not isinstance(settings, dict):
                raise ValueError("it holds no settings")
            return settings
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"{file} cannot be read ({' '.join(str(error).split())}); a run's directory holds one"
            ) from error


def step_name(step: int) -> str:
    return f"step_{step:08d}"

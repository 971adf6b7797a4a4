"""A run directory: where everything that a run leaves behind is written, atomically."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from gcl.errors import UserError
from gcl.parts import Settings, check_parts

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "accelerate")


class RunDirectory:
    """The files of one run; only the main process writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check_free(self, resume: bool) -> None:
        """Refuse a directory that already holds a run, unless it is to be resumed."""
        if (self.path / "config.yaml").exists() and not resume:
            raise UserError(
                f"output_dir {self.path} already holds a run; go on with resume=true, or choose another output_dir"
            )

    def begin(self, settings: Settings, processes: int) -> None:
        """Write what was asked for and where it runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_text(self.path / "environment.json", json.dumps(environment(processes), indent=1) + "\n")

    def keep_metrics_until(self, step: int) -> None:
        """Drop logged rows after `step`: the steps they tell of will be taken again."""
        if self.metrics_file.exists():
            rows = [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]
            write_text(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def log(self, row: dict[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def evaluation(self, step: int) -> Path:
        return self.path / "evaluation" / step_name(step)

    def write_evaluation(self, step: int, results: dict[str, dict[str, Any]]) -> None:
        """Write each result's files, evaluation/STEP/NAME/FILE.json, all or none."""
        folder = self.evaluation(step)
        temporary = folder.with_name(folder.name + ".tmp")
        for name, files in results.items():
            (temporary / name).mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (temporary / name / f"{file}.json").write_text(json.dumps(content, indent=1) + "\n")
        temporary.rename(folder)

    def evaluations(self) -> dict[int, dict[str, dict[str, Any]]]:
        """step -> name -> metrics, of every finished evaluation."""
        found = sorted((self.path / "evaluation").glob("step_????????"))
        return {
            int(folder.name.removeprefix("step_")): {
                file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/metrics.json"))
            }
            for folder in found
        }

    def settings(self) -> Settings:
        """The settings the run was started with; parts that are not gcl's own are refused."""
        file = self.path / "config.yaml"
        try:
            return check_parts(yaml.safe_load(file.read_text()))
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise UserError(
                f"{file} cannot be read ({' '.join(str(error).split())}); a run's directory holds one"
            ) from error


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.rename(path)


def environment(processes: int) -> dict[str, Any]:
    """Versions, commit, command, processes, device names."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": " ".join(sys.argv),
        "processes": processes,
        "devices": devices or [f"CPU {platform.processor() or platform.machine()} x {os.cpu_count()}"],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of the checkout that gcl runs from, or None when it is installed."""
    folder = Path(__file__).parent
    answer = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None

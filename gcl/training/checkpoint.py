"""Checkpoints: written under a temporary name, renamed, and marked COMPLETE last."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from gcl import deepspeed
from gcl.distributed import barrier
from gcl.errors import UserError
from gcl.training.run import step_name

COMPLETE = "COMPLETE"
STATE = "state.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Fingerprint:
    """What decides which sample comes when; a run may only be resumed with the same."""

    seed: int
    batch_size: int
    lanes: int
    windows: list[int]  # samples, of each data set
    mixture: list[float]  # weights of the data sets
    train_data: list[str]  # digests of their shards
    negatives: str | None = None  # digest of mined negatives


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: RUN/checkpoints.
        fingerprint: saved with each, compared at resume.
        keep: how many of the last ones stay.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint, keep: int) -> None:
        self.folder, self.fingerprint, self.keep = folder, fingerprint, keep

    def save(self, accelerator: Accelerator, model: nn.Module, step: int, totals: dict[str, int]) -> None:
        """Save model, optimizer and what was counted after `step` steps (all ranks participate)."""
        final = self.folder / step_name(step)
        temporary = final.with_name(final.name + ".tmp")
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)  # one without COMPLETE, from a run that was killed here
            temporary.mkdir(parents=True)
        barrier()
        accelerator.save_state(str(temporary))
        if deepspeed.is_used(accelerator):  # which saved pieces; every verb reads whole weights
            weights = accelerator.get_state_dict(model)
            if accelerator.is_main_process:
                save_file(weights, temporary / WEIGHTS)
        barrier()
        if accelerator.is_main_process:
            state = {"step": step, **totals, **asdict(self.fingerprint), "pieces": deepspeed.pieces(accelerator)}
            (temporary / STATE).write_text(json.dumps(state, indent=1) + "\n")
            temporary.rename(final)
            (final / COMPLETE).touch()
            kept = complete_checkpoints(self.folder)[-self.keep :]
            for old in set(self.folder.iterdir()) - set(kept):  # also what a kill left half written or half removed
                (old / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(old)
        barrier()

    def resume(self, accelerator: Accelerator) -> dict[str, Any]:
        """Load the last complete checkpoint; its step and totals, nothing when there is none (all ranks participate).

        Raises:
            UserError: it belongs to another order of samples, or cannot be read.
        """
        found = complete_checkpoints(self.folder)
        if not found:
            return {}
        state = read_state(found[-1])
        for name, value in asdict(self.fingerprint).items():
            if state.get(name) != value:
                raise UserError(
                    f"{found[-1]} was trained with {name}={state.get(name)}, this command says {value}; "
                    "resume with the same, or start anew in another output_dir"
                )
        pieces = deepspeed.pieces(accelerator)
        if state.get("pieces") != pieces:
            raise UserError(
                f"{found[-1]} was saved {described(state.get('pieces'))}, and this launch is {described(pieces)}; "
                "resume with the launch that saved it, or start anew in another output_dir"
            )
        try:
            accelerator.load_state(str(found[-1]))
        except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
            raise UserError(
                f"checkpoint {found[-1]} cannot be loaded: {first_line(error)}; remove it to resume from the one before"
            ) from error
        return state


def described(pieces: str | None) -> str:
    return f"under {pieces}" if pieces else "without DeepSpeed"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints whose marker was written, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"step_????????/{COMPLETE}"))


def read_state(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
        return state
    except (OSError, ValueError) as error:
        raise UserError(
            f"checkpoint {checkpoint} cannot be read: {first_line(error)}; remove it to resume from the one before"
        ) from error


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

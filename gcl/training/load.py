"""What `checkpoint=` names, for every verb: a run, a checkpoint folder, a file of weights, or a published model."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from open_clip.factory import load_checkpoint as load_open_clip_checkpoint
from open_clip.factory import load_state_dict
from safetensors import SafetensorError

from gcl.errors import UserError
from gcl.models.dual_encoder import DualEncoder
from gcl.models.open_clip_start import PUBLISHED, build_open_clip
from gcl.parts import Settings, build
from gcl.training.checkpoint import COMPLETE, WEIGHTS, complete_checkpoints
from gcl.training.run import RunDirectory

PREFIX = "network."  # DualEncoder's, before open_clip's own names


@dataclass
class Loaded:
    """A model, and the run it comes from, where it comes from one."""

    model: DualEncoder
    name: str  # what to call it
    run: RunDirectory | None = None
    settings: Settings | None = None  # the run's


def load_model(checkpoint: str, model: Settings | None) -> Loaded:
    """Load what `checkpoint` names.

    Args:
        checkpoint: a run's directory (its last checkpoint), a checkpoint folder, a .pt or .safetensors file, an
            open_clip name with its tag (ViT-B-16-SigLIP/webli), or hf-hub:ORG/NAME.
        model: the part that builds the architecture of a file of weights.

    Raises:
        UserError: nothing of the kind is there, it is incomplete or unreadable, or does not fit the architecture.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return load_run(path)
    if path.suffix in (".pt", ".safetensors"):
        if model is None:
            raise UserError(f"checkpoint {path} holds weights alone; name its architecture too with model=NAME")
        encoder: DualEncoder = build({**model, "load_weights": False})
        load_weights(encoder, path)
        return Loaded(encoder, path.stem)
    if checkpoint.startswith(PUBLISHED):
        return Loaded(build_open_clip(checkpoint), checkpoint)
    architecture, _, tag = checkpoint.partition("/")
    if not tag or path.parent.is_dir():
        raise UserError(
            f"checkpoint {checkpoint!r} is no run, checkpoint folder, .pt or .safetensors file, open_clip name with "
            "its tag (ViT-B-16-SigLIP/webli) or hf-hub: name"
        )
    return Loaded(build_open_clip(architecture, tag), checkpoint)


def load_run(folder: Path) -> Loaded:
    """The last complete checkpoint of a run, or the one that `folder` is."""
    if (folder / "config.yaml").is_file():
        run = RunDirectory(folder)
        found = complete_checkpoints(run.checkpoints)
        if not found:
            raise UserError(f"run {folder} has no complete checkpoint yet; train on with resume=true")
        checkpoint = found[-1]
    elif (folder / COMPLETE).is_file():
        run, checkpoint = RunDirectory(folder.resolve().parent.parent), folder
    else:
        raise UserError(f"{folder} is no run and no complete checkpoint; a complete one holds a file named {COMPLETE}")
    settings = run.settings()
    part: dict[str, Any] = {**settings["model"], "load_weights": False}
    if "tokenizer" in part and run.tokenizer.is_dir():
        part["tokenizer"] = str(run.tokenizer)
    encoder: DualEncoder = build(part)
    load_weights(encoder, checkpoint / WEIGHTS)
    return Loaded(encoder, f"{run.path.name}/{checkpoint.name}", run, settings)


def load_weights(encoder: DualEncoder, path: Path) -> None:
    """Load a file of weights strictly; pickled code in it is never run.

    Raises:
        UserError: missing, unreadable, of another architecture, or not finite.
    """
    try:
        state = load_state_dict(str(path), weights_only=True)
        if {"logit_bias", PREFIX + "logit_bias"} & state.keys() and not encoder.has_logit_bias:
            encoder.add_logit_bias(0.0)  # the run added it
        if all(name.startswith(PREFIX) for name in state):
            encoder.network.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in state.items()})
        else:
            load_open_clip_checkpoint(encoder.network, str(path))
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        UnpicklingError,
        SafetensorError,
        AttributeError,
        KeyError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"checkpoint {path} cannot be loaded into {encoder.name}: {reason}") from error
    for name, parameter in encoder.network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"checkpoint {path} holds values that are not finite in {name}; take an earlier one")

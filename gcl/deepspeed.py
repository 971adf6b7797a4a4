"""DeepSpeed's side of a run: its settings filled in from the run's own, and a parameter clamped where it keeps it."""

import os
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType
from torch import nn

from gcl.errors import UserError

LAUNCH = "start with `accelerate launch --use_deepspeed --zero_stage 2 --num_processes N train.py ...`"

Settings = dict[str, Any]  # what a DeepSpeed json holds

DECIDED_BY = {  # sections of it that would overrule a setting of the run
    "optimizer": "optim.*",
    "scheduler": "optim.*",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
}


def is_launched() -> bool:
    """Whether the launcher asks for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def is_used(accelerator: Accelerator) -> bool:
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def pieces(accelerator: Accelerator) -> str | None:
    """In what pieces DeepSpeed keeps and saves a run's state, None where it is whole."""
    if not is_used(accelerator):
        return None
    stage = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage"]
    return f"DeepSpeed ZeRO-{stage} on {accelerator.num_processes} processes"


def launched_plugin() -> DeepSpeedPlugin:
    """What the launcher's flags and files say to DeepSpeed.

    Raises:
        UserError: they are not understood, or there was no launcher.
    """
    if "LOCAL_RANK" not in os.environ:
        raise UserError(f"ACCELERATE_USE_DEEPSPEED=true does not start DeepSpeed's processes; {LAUNCH}")
    try:
        return DeepSpeedPlugin()
    except ValueError as error:
        raise UserError(f"DeepSpeed's settings are not understood: {' '.join(str(error).split())}") from error


def skip_compilation() -> None:
    """Keep DeepSpeed from compiling collectives of its own for a CPU, up to a minute at the first start."""
    import deepspeed  # noqa: PLC0415  # optional, and slow to import

    deepspeed.ops.__compatible_ops__ = {}


def configure(accelerator: Accelerator, precision: str, batch_size: int, grad_clip_norm: float) -> None:
    """Tell DeepSpeed, where it is used, what it has to know of a run; before the model is built.

    Raises:
        UserError: DeepSpeed's own settings say something else than the run's.
    """
    if is_used(accelerator):
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        fill_in(settings, precision, batch_size, accelerator.num_processes, grad_clip_norm)
        from transformers.integrations import unset_hf_deepspeed_config  # noqa: PLC0415  # slow to import

        # With it set, transformers builds a text tower in ZeRO-3's pieces, and no weights can be loaded into them.
        unset_hf_deepspeed_config()


def fill_in(settings: Settings, precision: str, batch_size: int, processes: int, grad_clip_norm: float) -> None:
    """Fill in what DeepSpeed's settings leave open or set to "auto", and refuse what contradicts the run's."""
    refuse_overruling(settings)
    for name, value, setting in (
        ("train_batch_size", batch_size, "train.batch_size"),
        ("train_micro_batch_size_per_gpu", batch_size // processes, "train.batch_size"),
        ("gradient_accumulation_steps", 1, "train.micro_batch_size"),
        ("gradient_clipping", grad_clip_norm, "train.grad_clip_norm"),
    ):
        given = settings.get(name, "auto")
        if given not in ("auto", value):
            raise UserError(f"DeepSpeed's {name}={given} is not this run's {value}; remove it, {setting} decides")
        settings[name] = value
    settings["zero_allow_untested_optimizer"] = True
    settings.setdefault("zero_force_ds_cpu_optimizer", False)  # DeepSpeed's own would be compiled first
    zero = settings["zero_optimization"]
    zero["stage3_gather_16bit_weights_on_model_save"] = zero["stage"] == 3
    if precision == "bf16":
        # Without the empty list it would sum gradients over processes in bf16 too.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


def refuse_overruling(settings: Settings) -> None:
    """Refuse sections that a setting of the run decides, and what gcl cannot train with."""
    for section, setting in DECIDED_BY.items():
        if section in settings and settings[section].get("enabled", True):
            raise UserError(f"DeepSpeed's settings have a section {section!r}; remove it, {setting} decides that")
    zero = settings["zero_optimization"]
    if zero.get("stage") not in (1, 2, 3):
        raise UserError(
            f"DeepSpeed's zero_optimization.stage={zero.get('stage')} is none of 1, 2 and 3; give one of them, or "
            "launch without DeepSpeed"
        )
    if not zero.get("compute_grad_norm", True):
        raise UserError("DeepSpeed's zero_optimization.compute_grad_norm=false leaves no norm to log; remove it")


def clamp(parameter: nn.Parameter, ceiling: float) -> None:
    """Clamp a trained parameter, and the copy of it that DeepSpeed's steps change (all ranks participate)."""
    from deepspeed import utils, zero  # noqa: PLC0415  # optional, and slow to import

    with zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.clamp_(max=ceiling)
    if zero.partition_parameters.is_zero_param(parameter):  # ZeRO-3 keeps a piece on each process
        piece = utils.safe_get_local_fp32_param(parameter)
        utils.safe_set_local_fp32_param(parameter, piece.clamp(max=ceiling))
    else:
        utils.safe_set_full_fp32_param(parameter, parameter.data)

"""Processes: how they start, and the collective calls between them. The only file that calls torch.distributed."""

import os
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor

from gcl import deepspeed
from gcl.cpu import keep_memory, use_all_cores
from gcl.errors import UserError

Precision = Literal["float32", "bf16"]
Value = TypeVar("Value")


def start_processes(precision: Precision, timeout_seconds: int = 1800) -> Accelerator:
    """Join the processes that the launcher started (all ranks participate).

    Args:
        precision: of the towers' matrix products.
        timeout_seconds: how long a collective call may wait for the other processes.

    Raises:
        UserError: what the launcher started would train otherwise than it was asked to.
    """
    plugin = deepspeed.launched_plugin() if deepspeed.is_launched() else None
    backend = None
    if plugin and not torch.accelerator.is_available():
        backend = "gloo"  # Accelerate finds one for DeepSpeed on GPUs only
        deepspeed.skip_compilation()
    accelerator = Accelerator(
        # bf16 would be that of the weights under DeepSpeed, whose own settings say what it is of (deepspeed.configure).
        mixed_precision="no" if plugin else {"float32": "no", "bf16": "bf16"}[precision],
        deepspeed_plugin=plugin,
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=timeout_seconds))],
    )
    check_launch(accelerator)
    if accelerator.device.type == "cpu":
        use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        keep_memory()
    return accelerator


def check_launch(accelerator: Accelerator) -> None:
    """Refuse what would silently be one process, or several that train apart.

    Raises:
        UserError: naming the launch that works.
    """
    if deepspeed.is_launched() and not deepspeed.is_used(accelerator):
        raise UserError(
            f"DeepSpeed was asked for, but Accelerate would train without it ({accelerator.distributed_type.value}); "
            f"unset ACCELERATE_USE_CPU, and {deepspeed.LAUNCH}"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"the launcher's gradient_accumulation_steps={accelerator.gradient_accumulation_steps} makes no larger "
            "contrastive batch; set it to 1, and train.micro_batch_size to what fits"
        )
    remedy = "start them with `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N train.py ...`"
    launched = int(os.environ.get("WORLD_SIZE", 1))
    alone = launched > 1 and accelerator.distributed_type == DistributedType.NO
    if accelerator.num_processes != launched or alone:
        raise UserError(
            f"the launcher started {launched} processes, but Accelerate sees {accelerator.num_processes} "
            f"({accelerator.distributed_type.value}); without GPUs {remedy}"
        )
    # `accelerate launch --cpu --num_processes N` starts one process; its only trace is an address meant for several.
    if "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        raise UserError(
            f"the launcher was asked for several processes and started one; without GPUs {remedy} "
            "(one process alone: unset MASTER_ADDR)"
        )


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if is_initialized() else 0


def barrier() -> None:
    """Wait for every process (all ranks participate)."""
    if is_initialized():
        dist.barrier()


def leave() -> None:
    """End the process group, where there is one."""
    if is_initialized():
        dist.destroy_process_group()


def is_main_process() -> bool:
    return rank() == 0


def from_main_process(value: Value) -> Value:
    """The main process's value, on every process (all ranks participate)."""
    values = [value]
    if is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over processes, without gradient (all ranks participate)."""
    if not is_initialized():
        return tensor.detach().clone()
    total = on_backend(tensor.detach()).clone()
    dist.all_reduce(total)
    return total.to(tensor.device)


def gather(tensor: Tensor) -> Tensor:
    """Every process's rows in rank order, without gradient (all ranks participate): (world * rows, ...)."""
    if not is_initialized():
        return tensor.detach()
    own = on_backend(tensor.detach()).contiguous()
    gathered = own.new_empty((world_size() * len(own), *own.shape[1:]))
    dist.all_gather_into_tensor(gathered, own)
    return gathered.to(tensor.device)


def on_backend(tensor: Tensor) -> Tensor:
    """The tensor on a device that the processes' backend reaches: NCCL takes none on the CPU."""
    if tensor.device.type != "cpu" or "cpu:" in dist.get_backend_config():
        return tensor
    device = torch.accelerator.current_accelerator()
    assert device is not None, "a backend without the CPU has another device"
    return tensor.to(device)


def sum_of_own_rows(tensor: Tensor) -> Tensor:
    """This process's rows of the sum over processes, what `gather` gave turned back (all ranks participate).

    Args:
        tensor: (world * rows, ...), in rank order, contiguous; its content is lost.

    Returns:
        (rows, ...).
    """
    if not is_initialized():
        return tensor
    parts = tensor.chunk(world_size())
    if tensor.device.type == "cpu":  # gloo's reduce_scatter would copy the whole tensor
        for owner, part in enumerate(parts):
            dist.reduce(part, dst=owner)
        return parts[rank()].clone()
    own = torch.empty_like(parts[rank()])
    dist.reduce_scatter_tensor(own, tensor)
    return own

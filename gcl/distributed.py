"""Processes: how they start, and the collective calls between them. The only file that calls torch.distributed."""

import os
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor

from gcl.cpu import keep_memory, use_all_cores
from gcl.errors import UserError

Precision = Literal["float32", "bf16"]


def start_processes(precision: Precision, timeout_seconds: int = 1800) -> Accelerator:
    """Join the processes that the launcher started (all ranks participate).

    Args:
        precision: of the towers' matrix products.
        timeout_seconds: how long a collective call may wait for the other processes.

    Raises:
        UserError: the launcher started several processes, but each would train alone.
    """
    accelerator = Accelerator(
        mixed_precision={"float32": "no", "bf16": "bf16"}[precision],
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_seconds))],
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


def from_main_process(value: bool) -> bool:
    """The main process's value, on every process (all ranks participate)."""
    values = [value]
    if is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over processes, without gradient (all ranks participate)."""
    total = tensor.detach().clone()
    if is_initialized():
        dist.all_reduce(total)
    return total


def gather(tensor: Tensor) -> Tensor:
    """Every process's rows in rank order, without gradient (all ranks participate): (world * rows, ...)."""
    if not is_initialized():
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class GatherWithGrad(torch.autograd.Function):
    """Gather whose backward sums every process's gradient for these rows."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        rows = gradient.shape[0] // world_size()
        return all_sum(gradient.contiguous())[rank() * rows : (rank() + 1) * rows]


def gather_with_grad(tensor: Tensor) -> Tensor:
    """Every process's rows in rank order (all ranks participate, in forward and in backward).

    The backward sums over processes; DDP then averages the parameters' gradients, so a loss that scales its own rows
    by the number of processes gets the exact gradient of the whole batch.
    """
    if not is_initialized():
        return tensor
    gathered: Tensor = GatherWithGrad.apply(tensor)
    return gathered

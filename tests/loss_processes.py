"""Steps of gradient-cached training on real gloo processes, each with an Accelerator of its own."""

import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from loss_cases import ROWS, Case
from torch import Tensor, nn

from gcl.distributed import all_sum, leave, rank, start_processes, world_size
from gcl.losses.objective import Loss
from gcl.training.gradient_cache import GradientCache, Step

SECONDS = 120  # for all processes together
Measure = Callable[[Accelerator, Path], None]


def run_on_processes(world: int, measure: Measure, folder: Path) -> None:
    """Call `measure` on every process of one group, and wait for all; the first one's error is raised."""
    # Forked from one process that has imported: an import costs more than all that is measured.
    multiprocessing.set_forkserver_preload(["open_clip", "gcl.training.gradient_cache"])
    processes = torch.multiprocessing.start_processes(
        join_group, (world, measure, folder), nprocs=world, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + SECONDS
    while not processes.join(timeout=1):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"{world} processes still wait for each other after {SECONDS} s")


def join_group(process: int, world: int, measure: Measure, folder: Path) -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world > 1:
        os.environ |= {"RANK": str(process), "LOCAL_RANK": str(process)}
        os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        # A file needs no free port; Accelerate takes the group that it finds.
        rendezvous = f"file://{folder}/rendezvous_{world}"
        torch.distributed.init_process_group(
            "gloo", init_method=rendezvous, rank=process, world_size=world, timeout=timedelta(seconds=SECONDS)
        )
    accelerator = start_processes("float32")
    torch.set_num_threads(1)  # for tensors this small, threads only wait for each other
    measure(accelerator, folder)
    leave()


def cached_step(
    accelerator: Accelerator, towers: nn.Module, case: Case, loss: Loss, micro_batches: int
) -> tuple[GradientCache, Step]:
    """A step's forward pass on this process's rows, in that many micro-batches (all ranks participate)."""
    batch = case.batch().split(ROWS // world_size())[rank()]
    # The last micro-batch has fewer rows than the others.
    micro_batch_size = None if micro_batches == 1 else len(batch) // micro_batches + 1
    cache = GradientCache(accelerator, accelerator.prepare(towers), loss, micro_batch_size)
    step = cache.forward(batch, [0, rank()])
    assert len(step.micro_batches) == micro_batches
    return cache, step


def measure_step(
    accelerator: Accelerator, towers: nn.Module, case: Case, loss: Loss, micro_batches: int
) -> dict[str, Tensor]:
    """The loss, and the gradients that an optimizer would see (all ranks participate)."""
    cache, step = cached_step(accelerator, towers, case, loss, micro_batches)
    cache.backward(step)
    gradients = {name: parameter.grad for name, parameter in towers.named_parameters()}
    return {"loss": all_sum(step.share) / world_size(), **gradients}


def named(run: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A run's values as they are written to a file with those of other runs."""
    return {f"{run}/{name}": value for name, value in values.items()}


def of_run(written: dict[str, Tensor], run: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{run}/"): value for name, value in written.items() if name.startswith(f"{run}/")}

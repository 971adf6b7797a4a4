"""The streamed sigmoid loss beside open_clip's ring and a plain all-gather: memory and time of forward and backward.

python benchmarks/loss.py [--quick] [--device cuda]

Every measurement has processes of its own, forked from one that has only imported, so that no heap hides another's.
Memory is what a process needs above its level just before forward, the embeddings' gradients included: on a CPU the
peak of its resident set (VmHWM, reset through /proc/self/clear_refs, so Linux only), of the process that needs most.
Time is user and system seconds of all processes together on a CPU, CUDA events on a GPU; the system's are for faulting
in memory and for exchanging embeddings. glibc's malloc keeps its defaults for every method. Every measurement's loss
and gradients are compared with the ring's of the same size.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from loss_methods import DIM, FLOORS, GATHER, LOSSES, OURS, RING, build_inputs, run_method
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcl.distributed import all_sum, barrier, leave, rank, world_size

TOLERANCE = 1e-4  # relative, in float32
PROCESSES = {"cpu": 2, "cuda": 1}
# Global batch -> rounds. Memory that nobody used before may be slow to come from a virtual machine's host: never one.
ROUNDS = {"cpu": {4096: 5, 16384: 3, 32768: 5}, "cuda": {32768: 3, 65536: 3, 131072: 3, 262144: 3}}
QUICK_ROUNDS = {"cpu": {4096: 3, 8192: 3}, "cuda": {32768: 3}}
LARGEST_GATHER = {"cpu": 16384, "cuda": 262144}  # twice that would fill a machine of 24 GB
TIME_LIMIT_SECONDS = 570  # a further round that would not end by then is left out
WARM_UP_BATCH = 4096  # whole tiles, at a cost of a second

log = Console(stderr=True, soft_wrap=True)


@dataclass
class Task:
    """One measurement, shared by its processes."""

    method: str
    global_batch: int
    device: str
    folder: Path  # of the whole run
    rendezvous: str


@dataclass
class Measurement:
    """Of one process, of all, or typical of several rounds."""

    extra_bytes: float
    seconds: float
    system_seconds: float  # of these; 0 on a GPU
    difference: float | None  # the largest from the ring, relative; None where there is none to compare with


Summary = Callable[[Iterable[float]], float]


def summary(parts: Sequence[Measurement], of_bytes: Summary, of_seconds: Summary) -> Measurement:
    differences = [part.difference for part in parts if part.difference is not None]
    return Measurement(
        of_bytes(part.extra_bytes for part in parts),
        of_seconds(part.seconds for part in parts),
        of_seconds(part.system_seconds for part in parts),
        max(differences, default=None),
    )


def measure(task: Task, process: int) -> Measurement | None:
    """One process's part (all ranks participate); None where the GPU's memory does not suffice."""
    torch.set_num_threads(1)
    if (processes := PROCESSES[task.device]) > 1:
        torch.distributed.init_process_group("gloo", task.rendezvous, rank=process, world_size=processes)
    try:
        return measure_on_gpu(task) if task.device == "cuda" else measure_on_cpu(task)
    except torch.OutOfMemoryError:
        return None
    finally:
        leave()


def measure_on_cpu(task: Task) -> Measurement:
    run_method(task.method, build_inputs(WARM_UP_BATCH // world_size(), task.device))
    inputs = build_inputs(task.global_batch // world_size(), task.device)
    ctypes.CDLL(None).malloc_trim(0)
    barrier()
    Path("/proc/self/clear_refs").write_text("5")
    level, start = resident_bytes("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    loss = run_method(task.method, inputs)
    end, peak = resource.getrusage(resource.RUSAGE_SELF), resident_bytes("VmHWM")
    user, system = end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime
    return Measurement(peak - level, user + system, system, difference_from_ring(task, loss, inputs))


def measure_on_gpu(task: Task) -> Measurement:
    """After a run of the same size, since the first one loads kernels."""
    inputs = build_inputs(task.global_batch // world_size(), task.device)
    run_method(task.method, inputs)
    for value in inputs.values():
        value.grad = None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    level = torch.cuda.memory_allocated()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    loss = run_method(task.method, inputs)
    end.record()
    torch.cuda.synchronize()
    extra, seconds = torch.cuda.max_memory_allocated() - level, start.elapsed_time(end) / 1000
    return Measurement(extra, seconds, 0.0, difference_from_ring(task, loss, inputs))


def resident_bytes(field: str) -> int:
    """VmRSS: now; VmHWM: the peak since it was reset."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


def difference_from_ring(task: Task, loss: Tensor, inputs: dict[str, Tensor]) -> float | None:
    """The largest relative difference of the loss and of each gradient, by norm (all ranks participate).

    Loss, scale and bias are averaged over processes, as data-parallel training does. The ring's first result is kept.
    """
    if task.method in FLOORS:
        return None
    gradients = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in inputs.items()}
    values = gradients | {"loss": loss}
    for name in ("loss", "scale", "bias"):
        values[name] = all_sum(values[name]) / world_size()
    values = {name: value.cpu().contiguous() for name, value in values.items()}
    kept = task.folder / f"{task.global_batch}_{rank()}.safetensors"
    if task.method == RING and not kept.exists():
        save_file(values, kept)
    if not kept.exists():
        return None
    expected = load_file(kept)
    # A tensor's maximum is NaN where one is; Python's max would lose it.
    return float(torch.stack([(values[name] - expected[name]).norm() / expected[name].norm() for name in values]).max())


def medians(measurements: list[Measurement]) -> Measurement | None:
    return summary(measurements, statistics.median, statistics.median) if measurements else None


def ratios(found: Measurement, ring: Measurement) -> tuple[float, float]:
    """Of memory and of time."""
    return found.extra_bytes / ring.extra_bytes, found.seconds / ring.seconds


def cells(found: Measurement | None, ring: Measurement | None) -> list[str]:
    if found is None:
        return ["out of memory", "", "", "", "", ""]
    beside_ring = [f"{ratio:.3f}" for ratio in ratios(found, ring)] if ring else ["", ""]
    difference = "" if found.difference is None else f"{found.difference:.0e}"
    seconds = [f"{found.seconds:.3f}", f"{found.system_seconds:.3f}" if found.system_seconds else ""]
    return [f"{found.extra_bytes / 2**20:.1f}", *seconds, *beside_ring, difference]


def measure_in_fresh_processes(task: Task) -> Measurement | None:
    processes = PROCESSES[task.device]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("forkserver")) as pool:
        parts = list(pool.map(measure, [task] * processes, range(processes)))
    measured = [part for part in parts if part is not None]
    return summary(measured, max, sum) if len(measured) == processes else None


def measure_size(size: int, rounds: int, device: str, deadline: float, folder: Path) -> dict[str, list[Measurement]]:
    """Method -> its measurements, none where memory did not suffice; the methods take turns in every round."""
    methods = [name for name in LOSSES if name != GATHER or size <= LARGEST_GATHER[device]]
    results: dict[str, list[Measurement]] = {name: [] for name in [*methods, *(FLOORS if device == "cuda" else [])]}
    duration = 0.0
    for number in range(rounds):
        began = time.monotonic()
        if number and began + duration > deadline:
            log.print(f"{size}: {number} of {rounds} rounds, for want of time")
            break
        fitting = [method for method, measurements in results.items() if len(measurements) == number]
        for method in fitting if number % 2 == 0 else reversed(fitting):
            task = Task(method, size, device, folder, f"file://{folder}/{method}_{size}_{number}")
            measurement = measure_in_fresh_processes(task)
            log.print(f"{deadline - time.monotonic():.0f} s left: {size} {method}:", *cells(measurement, None))
            if measurement:
                check(task, measurement)
                results[method].append(measurement)
        duration = time.monotonic() - began
    return results


def check(task: Task, measurement: Measurement) -> None:
    """Stop where a method computes something else than the ring."""
    if measurement.difference is not None and not measurement.difference <= TOLERANCE:
        sys.exit(
            f"{task.method} at a global batch of {task.global_batch}: loss or gradients differ from the ring's by "
            f"{measurement.difference:.1e}, more than {TOLERANCE}; its time and memory mean nothing"
        )


def print_results(results: dict[int, dict[str, list[Measurement]]], device: str) -> None:
    """The table, and as the last line ours / ring at the largest size that both can hold, as JSON."""
    clock, processes = {"cpu": "CPU", "cuda": "GPU"}[device], PROCESSES[device]
    table = Table(title=f"forward and backward, dim {DIM}, float32, processes: {processes}, torch {torch.__version__}")
    headings = ("extra peak MiB", f"{clock} s", "system s", "memory / ring", "time / ring", "difference", "rounds")
    for heading in ("batch", "method", *headings):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    last: dict[str, float] = {}
    for size, of_size in results.items():
        ring, ours = medians(of_size[RING]), medians(of_size[OURS])
        for method, measurements in of_size.items():
            table.add_row(str(size), method, *cells(medians(measurements), ring), str(len(measurements)))
        table.add_section()
        if ring and ours:
            memory_ratio, time_ratio = (round(ratio, 4) for ratio in ratios(ours, ring))
            last = {"global_batch": size, "processes": processes, "memory_ratio": memory_ratio}
            last[f"{clock.lower()}_ratio"] = time_ratio
    Console(width=120).print(table)
    print(json.dumps(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches and few rounds: about a minute")
    devices = "cpu: two gloo processes, one thread each, up to 32,768 pairs; cuda: one process, up to 262,144 pairs"
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=f"{devices} (default: cpu)")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch sees; leave it out to measure on the CPU")
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    os.environ["OMP_NUM_THREADS"] = "1"  # before the process starts that all others are forked from
    multiprocessing.get_context("forkserver").set_forkserver_preload(["open_clip.loss", "loss_methods"])
    with tempfile.TemporaryDirectory() as folder:
        plan = (QUICK_ROUNDS if arguments.quick else ROUNDS)[device].items()
        print_results({size: measure_size(size, n, device, deadline, Path(folder)) for size, n in plan}, device)


if __name__ == "__main__":
    main()

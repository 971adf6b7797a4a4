"""Search of a corpus that is larger than memory, beside the matrix products alone.

The file is random unit vectors, made in blocks. A process of its own then maps it and searches it with all cores that
it may use; the most memory of its own is looked up as it reads. The floor is the time of the same products, queries
with every block, on one block that lies in memory: in the precision that the search takes here, and in float32.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evaluator_data import Size, unit_rows
from rich.console import Console
from torch import Tensor

from gcl.cpu import keep_memory, use_all_cores
from gcl.retrieval.bounded_products import product_type
from gcl.retrieval.search import BLOCK, search
from gcl.retrieval.vectors import ArrayVectors

DEPTH = 1000
WRITTEN = 1 << 16  # rows made at once
FLOOR_BLOCKS = 20  # multiplied to know what all of them take

log = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Watched(ArrayVectors):
    """Keeps the most memory of this process's own, in bytes, that was seen when rows were read."""

    most: list[int]

    def block(self, start: int, stop: int) -> Tensor:
        self.most[0] = max(self.most[0], own_bytes())
        return super().block(start, stop)

    def rows(self, numbers: Tensor) -> Tensor:
        self.most[0] = max(self.most[0], own_bytes())
        return super().rows(numbers)


def own_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def write_corpus(file: Path, size: Size, dtype: str) -> None:
    random = np.random.default_rng(1)
    array = np.lib.format.open_memmap(file, "w+", dtype=dtype, shape=(size.documents, size.dimensions))
    for start in range(0, size.documents, WRITTEN):
        stop = min(start + WRITTEN, size.documents)
        array[start:stop] = unit_rows(stop - start, size.dimensions, random)
    array.flush()


def measure_large(folder: Path, size: Size, dtype: str) -> None:
    """Make the file, search it in a process of its own, and print what that took as the last line, as JSON."""
    file = folder / "corpus.npy"
    write_corpus(file, size, dtype)
    log.print(f"wrote {file.stat().st_size / 1e9:.1f} GB")
    arguments = [str(file), str(size.queries)]
    # Threads that wait for each other then sleep, where others use the cores too.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    print(done.stdout.strip())


def search_file(file: Path, queries: int) -> dict[str, object]:
    use_all_cores(1)
    keep_memory()
    most = [0]
    corpus = Watched(np.load(file, mmap_mode="c"), most)
    asking = torch.from_numpy(unit_rows(queries, corpus.dimensions, np.random.default_rng(0)))
    seconds, cpu_seconds = timed(lambda: search(asking, corpus, DEPTH))
    blocks = -(-len(corpus) // BLOCK)
    floors = {
        name: timed_products(asking.to(dtype), corpus.block(0, BLOCK).to(dtype), blocks)
        for name, dtype in (("quickest", product_type(asking)), ("float32", torch.float32))
    }
    return {
        "corpus": f"{len(corpus)} x {corpus.dimensions} {corpus.array.dtype}",
        "queries": queries,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "own_gigabytes": round(most[0] / 1e9, 2),
        "product": str(product_type(asking)),
        **{f"floor_{name}_{unit}": round(value, 1) for name, found in floors.items() for unit, value in found.items()},
    }


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    began, cpu = time.perf_counter(), process_seconds()
    call()
    return time.perf_counter() - began, process_seconds() - cpu


def process_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed_products(queries: Tensor, block: Tensor, blocks: int) -> dict[str, float]:
    """What multiplying with so many blocks takes, from a few of them."""
    products = torch.empty(len(queries), len(block), dtype=queries.dtype)
    torch.mm(queries, block.T, out=products)
    found = timed(lambda: [torch.mm(queries, block.T, out=products) for _ in range(FLOOR_BLOCKS)])
    return {unit: value * blocks / FLOOR_BLOCKS for unit, value in zip(("seconds", "cpu_seconds"), found, strict=True)}


if __name__ == "__main__":
    print(json.dumps(search_file(Path(sys.argv[1]), int(sys.argv[2]))))

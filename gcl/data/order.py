"""Which sample comes when: a pure function of (seed, epoch, step), the same for any number of processes and workers.

An epoch's shards are permuted and their samples laid end to end; the sequence is cut into `lanes` equal contiguous
ranges; each lane is shuffled inside windows. A step takes the next batch_size / lanes samples of every lane, and
process r reads the r-th contiguous block of the batch, so each process reads only its own lanes, nearly in order.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gcl.errors import UserError


@dataclass(frozen=True)
class SampleOrder:
    """The order of one split's samples.

    Raises:
        UserError: a batch size that the lanes or processes do not divide, or an epoch without a single step.
    """

    shard_sizes: tuple[int, ...]  # samples of each shard, in manifest order
    batch_size: int  # global
    lanes: int
    window: int  # samples of a lane that are shuffled together
    seed: int

    def __post_init__(self) -> None:
        if min(self.lanes, self.window) < 1:
            raise UserError(f"data.lanes {self.lanes} and data.window {self.window} must be at least 1")
        if self.batch_size % self.lanes:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of {self.lanes} lanes; "
                f"{nearest_multiples(self.batch_size, self.lanes)}"
            )
        if self.steps_per_epoch == 0:
            raise UserError(
                f"the {self.samples} samples to train on do not make one batch of {self.batch_size}; "
                "lower train.batch_size or prepare more rows"
            )

    @property
    def samples(self) -> int:
        return sum(self.shard_sizes)

    @property
    def steps_per_epoch(self) -> int:
        """The unfilled tail of an epoch, other samples each time, is dropped."""
        return (self.samples // self.lanes) // (self.batch_size // self.lanes)

    def check_processes(self, processes: int) -> None:
        """Refuse a number of processes that the lanes cannot be shared among."""
        if self.batch_size % processes:
            raise UserError(
                f"batch_size {self.batch_size} is not divisible by {processes} processes; "
                f"{nearest_multiples(self.batch_size, processes)}"
            )
        if self.lanes % processes:
            raise UserError(
                f"{self.lanes} lanes are not divisible by {processes} processes; set data.lanes, "
                f"{nearest_lanes(self.lanes, self.batch_size, processes)}"
            )

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Sample numbers of the global batch of a step: (batch_size,) int64, lanes in order."""
        return self.lane_order(self.epoch(step))[:, self._columns(step)].reshape(-1)

    def local_batch(self, step: int, process: int, processes: int) -> np.ndarray:
        """The block of `batch(step)` that one process reads: (batch_size / processes,) int64."""
        return self.batch(step).reshape(processes, -1)[process]

    def lane_order(self, epoch: int) -> np.ndarray:
        """Sample numbers by lane, in reading order: (lanes, samples // lanes) int64."""
        return build_lane_order(self, epoch)

    def _columns(self, step: int) -> slice:
        width = self.batch_size // self.lanes
        start = (step % self.steps_per_epoch) * width
        return slice(start, start + width)


@lru_cache(maxsize=2)  # every step of an epoch asks for the same one
def build_lane_order(order: SampleOrder, epoch: int) -> np.ndarray:
    """Sample numbers by lane, in reading order: (lanes, samples // lanes) int64."""
    starts = np.cumsum([0, *order.shard_sizes])
    shards = np.random.default_rng([order.seed, epoch]).permutation(len(order.shard_sizes))
    sequence = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    length = order.samples // order.lanes
    lanes = sequence[: order.lanes * length].reshape(order.lanes, length)
    for lane in range(order.lanes):
        for number, start in enumerate(range(0, length, order.window)):
            window = lanes[lane, start : start + order.window]
            np.random.default_rng([order.seed, epoch, lane, number]).shuffle(window)
    return lanes


def default_lanes(batch_size: int) -> int:
    return math.gcd(batch_size, 64)


def nearest_multiples(value: int, divisor: int) -> str:
    below = max(divisor, value - value % divisor)
    return f"nearest that fit: {below}, {below + divisor}"


def nearest_lanes(lanes: int, batch_size: int, processes: int) -> str:
    """The multiples of `processes` nearest to `lanes` that divide the batch; it is itself a multiple of `processes`."""
    fitting = [n for n in range(processes, batch_size + 1, processes) if batch_size % n == 0]
    return f"nearest that fit: {', '.join(map(str, sorted(fitting, key=lambda n: abs(n - lanes))[:2]))}"

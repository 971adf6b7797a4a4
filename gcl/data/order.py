"""Which sample comes when: a pure function of (seed, epoch, step), the same for any number of processes and workers.

An epoch's shards are permuted and their samples laid end to end, turned by a random offset; the sequence is cut into
`lanes` equal contiguous ranges; each lane is shuffled inside windows. A step takes the next batch_size / lanes samples
of every lane, and process r reads the r-th contiguous block of the batch, so each process reads only its own lanes,
nearly in order. Nothing is laid out beyond the windows being read, however many samples there are.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gcl.errors import UserError

KEPT_WINDOWS = 2  # of each lane: a batch may end one and begin the next


class Layout(NamedTuple):
    """An epoch's shards laid end to end."""

    ends: np.ndarray  # (shards,) where each ends
    firsts: np.ndarray  # (shards,) what added to a place in it gives the sample number
    offset: int  # place at which the first lane begins


@dataclass(frozen=True)
class SampleOrder:
    """The order of one split's samples.

    Raises:
        UserError: a batch size that the lanes do not divide.
    """

    shard_sizes: tuple[int, ...]  # samples of each shard, in manifest order
    batch_size: int  # global
    lanes: int
    window: int  # samples of a lane that are shuffled together
    seed: int
    _windows: dict[int, dict[tuple[int, int], np.ndarray]] = field(default_factory=dict, compare=False, repr=False)
    _layouts: dict[int, "Layout"] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if min(self.lanes, self.window) < 1:
            raise UserError(f"data.lanes {self.lanes} and data.window {self.window} must be at least 1")
        if self.batch_size % self.lanes:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of {self.lanes} lanes; "
                f"{nearest_multiples(self.batch_size, self.lanes)}"
            )

    @cached_property
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

    @property
    def lane_length(self) -> int:
        """Samples of a lane in an epoch."""
        return self.samples // self.lanes

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Sample numbers of the global batch of a step: (batch_size,) int64, lanes in order."""
        return self.local_batch(step, 0, 1)

    def local_batch(self, step: int, process: int, processes: int) -> np.ndarray:
        """The block of `batch(step)` that one process reads: (batch_size / processes,) int64."""
        epoch, width = self.epoch(step), self.batch_size // self.lanes
        first = (step % self.steps_per_epoch) * width
        lanes = range(self.lanes * process // processes, self.lanes * (process + 1) // processes)
        places = [(lane, column) for lane in lanes for column in range(first, first + width)]
        return np.array([self.sample(epoch, lane, column) for lane, column in places])

    def sample(self, epoch: int, lane: int, column: int) -> int:
        """The number of the sample that a lane reads as its `column`-th."""
        number, place = divmod(column, self.window)
        return int(self.lane_window(epoch, lane, number)[place])

    def lane_window(self, epoch: int, lane: int, number: int) -> np.ndarray:
        """The samples of a lane's window, in reading order: (at most window,) int64."""
        kept = self._windows.setdefault(lane, {})
        if (epoch, number) not in kept:
            while len(kept) >= KEPT_WINDOWS:  # the oldest
                del kept[next(iter(kept))]
            ends, firsts, offset = self._layout(epoch)
            positions = (self._positions(lane, number) + offset) % self.samples
            shards = np.searchsorted(ends, positions, side="right")
            window = firsts[shards] + positions
            np.random.default_rng([self.seed, epoch, lane, number]).shuffle(window)
            kept[epoch, number] = window
        return kept[epoch, number]

    def window_runs(self, epoch: int, lane: int, number: int) -> list[tuple[int, int]]:
        """The samples of a lane's window as they lie in the shards: runs, each from and to a sample number."""
        numbers = np.sort(self.lane_window(epoch, lane, number))
        if len(numbers) == 0:
            return []
        cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(numbers, cuts)]

    def _positions(self, lane: int, number: int) -> np.ndarray:
        """Where a window's samples stand in the epoch's sequence of shards."""
        start = min(number * self.window, self.lane_length)
        stop = min(start + self.window, self.lane_length)
        return lane * self.lane_length + np.arange(start, stop)

    def _layout(self, epoch: int) -> "Layout":
        """The epoch's shards end to end, and where in them the first lane begins."""
        if epoch not in self._layouts:
            while len(self._layouts) >= KEPT_WINDOWS:
                del self._layouts[next(iter(self._layouts))]
            sizes = np.array(self.shard_sizes, dtype=np.int64)
            random = np.random.default_rng([self.seed, epoch])
            shards = random.permutation(len(sizes))
            ends = np.cumsum(sizes[shards])
            firsts = (np.cumsum(sizes) - sizes)[shards] - (ends - sizes[shards])
            # Turned, so that what the lanes leave over is another part each epoch, of a single shard too.
            self._layouts[epoch] = Layout(ends, firsts, int(random.integers(self.samples)))
        return self._layouts[epoch]


def default_lanes(batch_size: int) -> int:
    return math.gcd(batch_size, 64)


def nearest_multiples(value: int, divisor: int) -> str:
    below = max(divisor, value - value % divisor)
    return f"nearest that fit: {below}, {below + divisor}"


def nearest_lanes(lanes: int, batch_size: int, processes: int) -> str:
    """The multiples of `processes` nearest to `lanes` that divide the batch; it is itself a multiple of `processes`."""
    fitting = [n for n in range(processes, batch_size + 1, processes) if batch_size % n == 0]
    return f"nearest that fit: {', '.join(map(str, sorted(fitting, key=lambda n: abs(n - lanes))[:2]))}"

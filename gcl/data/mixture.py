"""Several data sets in one stream of batches: whose sample stands where, a pure function of the step."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gcl.data.order import SampleOrder
from gcl.errors import UserError


class Draw(NamedTuple):
    """One place of a batch."""

    dataset: int
    epoch: int  # of that data set
    sample: int  # its number there
    lane: int
    window: int  # number of the lane's window in which it lies


@dataclass(frozen=True)
class Mixture:
    """The places of every batch shared among data sets by weight.

    After s steps a data set has had s x batch_size x (its share of the weights) places, rounded by largest remainder:
    what a batch gives too little, a later one makes up for. Each data set goes through its own epochs. A batch lists
    its places by lane, and process r holds the r-th contiguous block.

    Raises:
        UserError: weights that are no positive numbers, or give a data set less than one place in a batch or more than
            it has samples.
    """

    orders: tuple[SampleOrder, ...]  # one for each data set
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        for weight in self.weights:
            if not 0 < weight < float("inf"):
                raise UserError(f"mixture weight {weight} must be a number above 0")
        for weight, order, share in zip(self.weights, self.orders, self._shares, strict=True):
            if share * self.batch_size < 1:
                raise UserError(
                    f"mixture weight {weight} is less than one place in a batch of {self.batch_size}; raise it, or "
                    "train.batch_size"
                )
            if self.epoch_draws(order) < share * self.batch_size:
                part = "one batch" if share == 1 else f"{float(share):.0%} of a batch"
                raise UserError(
                    f"the {order.samples} samples to train on do not make {part} of {self.batch_size}; "
                    "lower train.batch_size or prepare more rows"
                )

    @property
    def seed(self) -> int:
        return self.orders[0].seed

    @property
    def batch_size(self) -> int:
        return self.orders[0].batch_size

    @property
    def lanes(self) -> int:
        return self.orders[0].lanes

    def epochs(self, step: int) -> list[float]:
        """How often each data set has been gone through after `step` steps."""
        drawn = self.drawn_before(step)
        return [count / self.epoch_draws(order) for count, order in zip(drawn, self.orders, strict=True)]

    def epoch_draws(self, order: SampleOrder) -> int:
        """Places that an epoch of a data set fills; alone it drops what does not fill a batch."""
        alone = len(self.orders) == 1
        return order.steps_per_epoch * order.batch_size if alone else order.lane_length * order.lanes

    def drawn_before(self, step: int) -> list[int]:
        """How many places each data set has had in the batches before `step`."""
        places = step * self.batch_size
        exact = [places * share for share in self._shares]
        counts = [int(quota) for quota in exact]
        # Exact fractions, so that equal remainders are told apart alike everywhere: the earlier data set is first.
        by_remainder = sorted(range(len(counts)), key=lambda number: (counts[number] - exact[number], number))
        for number in by_remainder[: places - sum(counts)]:
            counts[number] += 1
        return counts

    def local_draws(self, step: int, process: int, processes: int) -> list[Draw]:
        """The block of a step's batch that one process reads."""
        before, after = self.drawn_before(step), self.drawn_before(step + 1)
        columns = []
        for number, order in enumerate(self.orders):
            epoch, place = np.divmod(np.arange(before[number], after[number]), self.epoch_draws(order))
            lane, column = self._lane_and_column(order, place)
            columns.append(np.stack([np.full_like(lane, number), epoch, lane, column], axis=1))
        places = np.concatenate(columns)
        places = places[np.lexsort((places[:, 3], places[:, 1], places[:, 0], places[:, 2]))]
        own = slice(len(places) * process // processes, len(places) * (process + 1) // processes)
        return [self._draw(*place) for place in places[own].tolist()]

    def _lane_and_column(self, order: SampleOrder, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lanes take turns, so that any number of successive places reads them evenly."""
        return place % order.lanes, place // order.lanes

    def _draw(self, dataset: int, epoch: int, lane: int, column: int) -> Draw:
        order = self.orders[dataset]
        return Draw(dataset, epoch, order.sample(epoch, lane, column), lane, column // order.window)

    @cached_property
    def _shares(self) -> list[Fraction]:
        total = sum(map(Fraction, self.weights))
        return [Fraction(weight) / total for weight in self.weights]

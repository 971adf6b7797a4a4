"""Data sets share a batch by weight, each in its own order and epochs, as a function of the step alone."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from gcl.data.mixture import Draw, Mixture
from gcl.data.order import SampleOrder
from gcl.errors import UserError

SIZES = [(100, 7, 1, 64, 33), (40, 21), (90,)]
WEIGHTS = (1.0, 0.3, 0.45)
BATCH, LANES = 24, 8


def mixture(weights: tuple[float, ...] = WEIGHTS, batch: int = BATCH, lanes: int = LANES) -> Mixture:
    orders = [SampleOrder(sizes, batch, lanes, 5, seed) for seed, sizes in enumerate(SIZES)]
    return Mixture(tuple(orders[: len(weights)]), weights)


@pytest.mark.parametrize("shape", [(SIZES[0], 16, 16, 8), (SIZES[0], 24, 8, 5), ((50,), 16, 16, 4)])
def test_a_data_set_alone_has_the_batches_of_its_own_order(shape: tuple) -> None:
    order = SampleOrder(*shape, seed=3)
    alone = Mixture((order,), (1.0,))
    for step in range(2 * order.steps_per_epoch + 1):
        draws = alone.local_draws(step, 0, 1)
        assert [draw.sample for draw in draws] == order.batch(step).tolist()
        assert {draw.epoch for draw in draws} == {order.epoch(step)}


@pytest.mark.parametrize("weights", [WEIGHTS, (1.0, 1.0, 1.0), (0.1, 0.7, 1e-1), (3, 1 / 3)])
def test_after_every_step_each_data_set_has_had_its_share_to_within_one_place(weights: tuple[float, ...]) -> None:
    mixed = mixture(weights)
    total = sum(map(Fraction, weights))
    had = [0] * len(weights)
    for step in range(500):
        for draw in mixed.local_draws(step, 0, 1) if step < 40 else ():
            had[draw.dataset] += 1
        counts = mixed.drawn_before(step + 1)
        assert step >= 40 or counts == had
        assert sum(counts) == BATCH * (step + 1)
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - BATCH * (step + 1) * Fraction(weight) / total) < 1
        assert min(np.subtract(counts, mixed.drawn_before(step))) >= 0


def test_every_data_set_goes_through_its_own_epochs_without_repeating_a_sample() -> None:
    mixed = mixture()
    draws = [draw for step in range(120) for draw in mixed.local_draws(step, 0, 1)]
    for number, order in enumerate(mixed.orders):
        seen = Counter((draw.epoch, draw.sample) for draw in draws if draw.dataset == number)
        assert set(seen.values()) == {1}
        sizes = Counter(epoch for epoch, _ in seen)
        whole = [epoch for epoch in sizes if epoch < max(sizes)]
        assert whole and {sizes[epoch] for epoch in whole} == {order.samples // LANES * LANES}
        assert mixed.epochs(120)[number] == pytest.approx(sum(sizes.values()) / (order.samples // LANES * LANES))


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_any_number_of_processes_shares_the_same_global_batch(processes: int) -> None:
    mixed = mixture()
    for step in (0, 1, 7, 60):
        whole = mixed.local_draws(step, 0, 1)
        blocks = [mixed.local_draws(step, process, processes) for process in range(processes)]
        assert {len(block) for block in blocks} == {BATCH // processes}
        assert [draw for block in blocks for draw in block] == whole
        assert [draw.lane for draw in whole] == sorted(draw.lane for draw in whole)


def test_a_process_reads_few_lanes_but_its_own() -> None:
    mixed = mixture(batch=240)
    for step in range(4):
        lanes = Counter(draw.lane for draw in mixed.local_draws(step, 1, 4))
        assert set(lanes) <= {1, 2, 3, 4}  # its own are 2 and 3; the shares do not divide evenly
        assert lanes[2] + lanes[3] > 0.9 * 60


def test_the_mixture_is_a_pure_function_of_the_step() -> None:
    forward = [mixture().local_draws(step, 0, 1) for step in range(20)]
    fresh = mixture()
    assert [fresh.local_draws(step, 0, 1) for step in reversed(range(20))] == forward[::-1]
    assert all(isinstance(draw, Draw) for draw in forward[0])


def test_adding_a_data_set_leaves_the_order_of_the_first() -> None:
    alone = [draw.sample for step in range(5) for draw in mixture((1.0,)).local_draws(step, 0, 1)]
    drawn = [d for step in range(5) for d in mixture((1.0, 1.0)).local_draws(step, 0, 1) if d.dataset == 0]
    first = {lane: [d.sample for d in drawn if d.lane == lane] for lane in range(LANES)}
    order = mixture().orders[0]
    assert alone[:3] == [order.sample(0, 0, column) for column in range(3)]
    assert all(found == [order.sample(0, lane, c) for c in range(len(found))] for lane, found in first.items())


@pytest.mark.parametrize(
    "weights, said",
    [
        ((1.0, 0.0), "mixture weight 0.0 must be a number above 0"),
        ((1.0, -1.0), "mixture weight -1.0 must be a number above 0"),
        ((1.0, float("nan")), "mixture weight nan"),
        ((1.0, 0.001), "mixture weight 0.001 is less than one place in a batch of 24; raise it"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights: tuple[float, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        mixture(weights)


def test_a_data_set_that_does_not_fill_its_share_is_refused() -> None:
    for sizes in ((15,), (), (3, 3)):
        with pytest.raises(UserError, match=f"the {sum(sizes)} samples to train on do not make one batch of 16"):
            Mixture((SampleOrder(sizes, 16, 4, 8, seed=0),), (1.0,))
    Mixture((SampleOrder((16,), 16, 4, 8, seed=0),), (1.0,))
    small = (SampleOrder((100,), 16, 4, 8, seed=0), SampleOrder((7,), 16, 4, 8, seed=0))
    with pytest.raises(UserError, match="the 7 samples to train on do not make 50% of a batch of 16; lower"):
        Mixture(small, (1.0, 1.0))
    Mixture(small, (1.0, 0.2))

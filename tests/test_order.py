"""The order of samples: every sample at most once, the same for any number of processes, and wrong sizes refused."""

import re
import tracemalloc

import numpy as np
import pytest

from gcl.data.order import SampleOrder, default_lanes
from gcl.errors import UserError

UNEVEN = (100, 7, 1, 64, 33)
# shard sizes, batch size, lanes, window
SHAPES = [
    (UNEVEN, 16, 16, 8),
    (UNEVEN, 24, 8, 5),  # window that does not divide the lane
    (UNEVEN, 12, 4, 1000),  # window larger than the lane
    (UNEVEN, 5, 1, 16),
    ((50,), 16, 16, 4),  # fewer shards than lanes
    ((1,) * 40, 8, 4, 3),  # shards of one sample
]


def epoch_samples(order: SampleOrder, epoch: int = 0) -> np.ndarray:
    first = epoch * order.steps_per_epoch
    return np.concatenate([order.batch(step) for step in range(first, first + order.steps_per_epoch)])


def lane_order(order: SampleOrder, epoch: int) -> list[np.ndarray]:
    """Every lane's samples in reading order."""
    windows = range(-(-order.lane_length // order.window))
    return [np.concatenate([order.lane_window(epoch, lane, n) for n in windows]) for lane in range(order.lanes)]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_epoch_has_every_sample_at_most_once_and_loses_less_than_a_batch_and_its_lanes(shape: tuple) -> None:
    order = SampleOrder(*shape, seed=3)
    for epoch in range(3):
        samples = epoch_samples(order, epoch)
        assert len(np.unique(samples)) == len(samples)
        assert samples.min() >= 0 and samples.max() < order.samples
        assert order.samples - len(samples) < order.batch_size + order.lanes


@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_has_a_whole_batch_with_as_many_samples_of_every_lane(shape: tuple) -> None:
    order = SampleOrder(*shape, seed=3)
    lanes = [set(lane.tolist()) for lane in lane_order(order, 0)]
    for step in range(order.steps_per_epoch):
        rows = order.batch(step).reshape(order.lanes, -1)
        assert rows.size == order.batch_size
        assert all(set(row) <= lane for row, lane in zip(rows.tolist(), lanes, strict=True))


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_any_number_of_processes_reads_the_same_global_batch(processes: int) -> None:
    order = SampleOrder(UNEVEN, 24, 8, 16, seed=1)
    order.check_processes(processes)
    for step in (0, 5, order.steps_per_epoch, 3 * order.steps_per_epoch + 2):
        blocks = [order.local_batch(step, process, processes) for process in range(processes)]
        assert {len(block) for block in blocks} == {24 // processes}
        assert np.concatenate(blocks).tolist() == order.batch(step).tolist()


def test_the_order_is_a_pure_function_of_seed_epoch_and_step() -> None:
    forward = [SampleOrder(UNEVEN, 16, 8, 16, seed=1).batch(step).tolist() for step in range(40)]
    fresh = SampleOrder(UNEVEN, 16, 8, 16, seed=1)
    assert [fresh.batch(step).tolist() for step in reversed(range(40))] == forward[::-1]
    assert [SampleOrder(UNEVEN, 16, 8, 16, seed=2).batch(step).tolist() for step in range(40)] != forward


def test_another_epoch_has_another_order_and_drops_other_samples() -> None:
    order = SampleOrder((30, 20, 13), 16, 4, 8, seed=0)
    epochs = [epoch_samples(order, epoch).tolist() for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_every_epoch_lays_the_shards_out_anew() -> None:
    order = SampleOrder((64,) * 8, 16, 1, 16, seed=0)
    epochs = []
    for epoch in range(3):
        samples = epoch_samples(order, epoch)
        assert sorted(samples) == list(range(512))
        shards = samples // 64
        epochs.append([int(shard) for shard in shards[np.flatnonzero(np.diff(shards, prepend=-1))]])
        whole = [np.flatnonzero(shards == shard) for shard in range(8)]
        assert (
            sum(np.ptp(places) < 64 + 2 * 16 for places in whole) >= 7
        )  # read from end to end, but for the turned one
    assert len({tuple(dict.fromkeys(shards)) for shards in epochs}) == 3


@pytest.mark.parametrize("sizes", [(127,), (700,), (100, 7, 1, 64, 33)])
def test_no_sample_is_dropped_in_every_epoch(sizes: tuple[int, ...]) -> None:
    order = SampleOrder(sizes, 64, 64, 4096, seed=0)
    seen = {int(sample) for epoch in range(40) for sample in epoch_samples(order, epoch)}
    assert seen == set(range(order.samples))


def test_a_window_is_all_that_a_resumed_lane_reads_again() -> None:
    order = SampleOrder((512,), 4, 4, 16, seed=0)
    for lane in lane_order(order, 0):
        windows = np.sort(lane.reshape(-1, 16), axis=1)
        turned = (windows - lane.reshape(-1, 16)[0].min()) % 512  # the lane that goes over the end begins again
        spans = np.sort(turned, axis=1)
        assert ((spans[:, -1] - spans[:, 0] == 15) | (spans[:, -1] - spans[:, 0] == 511)).all()  # 16 neighbours


@pytest.mark.parametrize("batch_size, lanes", [(128, 64), (96, 32), (100, 4), (7, 1), (64, 64), (4096, 64)])
def test_default_lanes_divide_the_batch(batch_size: int, lanes: int) -> None:
    assert default_lanes(batch_size) == lanes


def test_a_batch_size_that_lanes_do_not_divide_is_refused_naming_the_nearest() -> None:
    with pytest.raises(UserError, match=r"batch_size 100 .* 64 lanes; nearest that fit: 64, 128$"):
        SampleOrder((1000,), 100, 64, 16, seed=0)
    with pytest.raises(UserError, match=r"nearest that fit: 64, 128$"):
        SampleOrder((1000,), 20, 64, 16, seed=0)


def test_a_batch_size_that_processes_do_not_divide_is_refused_naming_the_nearest() -> None:
    with pytest.raises(UserError, match=r"batch_size 100 .* 8 processes; nearest that fit: 96, 104$"):
        SampleOrder((1000,), 100, 4, 16, seed=0).check_processes(8)


@pytest.mark.parametrize("batch_size, lanes, processes", [(96, 32, 3), (120, 8, 6), (48, 16, 12)])
def test_lanes_that_processes_do_not_divide_are_refused_naming_lanes_that_fit(
    batch_size: int, lanes: int, processes: int
) -> None:
    with pytest.raises(UserError, match=f"{lanes} lanes .* {processes} processes") as refused:
        SampleOrder((10_000,), batch_size, lanes, 16, seed=0).check_processes(processes)
    named = re.findall(r"\d+", str(refused.value).partition("nearest that fit:")[2])
    assert named
    for value in named:
        SampleOrder((10_000,), batch_size, int(value), 16, seed=0).check_processes(processes)


@pytest.mark.parametrize("lanes, window", [(0, 8), (-4, 8), (4, 0), (4, -1)])
def test_lanes_and_windows_below_one_are_refused(lanes: int, window: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        SampleOrder((64,), 16, lanes, window, seed=0)


def test_a_window_s_runs_are_its_samples_as_they_lie_in_the_shards() -> None:
    order = SampleOrder(UNEVEN, 16, 4, 8, seed=3)
    for lane in range(4):
        for number in range(order.lane_length // 8 + 1):
            window = order.lane_window(2, lane, number)
            runs = order.window_runs(2, lane, number)
            assert [sample for first, last in runs for sample in range(first, last)] == sorted(window.tolist())


def test_the_order_of_fifty_million_samples_takes_little_memory() -> None:
    order = SampleOrder((1000,) * 50_000, 4096, 64, 4096, seed=1)
    tracemalloc.start()
    for step in (0, 1, 2, 5000, 5001):
        order.local_batch(step, 3, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6

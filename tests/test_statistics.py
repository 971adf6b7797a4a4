"""Intervals and significance: SciPy gives the same numbers, and 100,000 queries take seconds."""

import time

import numpy as np
import pytest
import scipy.stats

from gcl.retrieval.statistics import BLOCK_ELEMENTS, bootstrap_intervals, randomization_test


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a - b))


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bootstrap_intervals_are_those_of_scipy(level: float) -> None:
    values = np.random.default_rng(1).exponential(size=300)
    resamples = BLOCK_ELEMENTS // 300 + 500  # more than one block
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=resamples, method="percentile", rng=5
    ).confidence_interval
    ours = bootstrap_intervals({"mrr": values}, level=level, resamples=resamples, seed=5)["mrr"]
    assert ours == pytest.approx(tuple(theirs), abs=1e-12)


def test_all_metrics_see_the_same_resamples() -> None:
    values = np.random.default_rng(2).random(100)
    intervals = bootstrap_intervals({"a": values, "b": 2 * values + 1})
    assert intervals["b"] == pytest.approx([2 * end + 1 for end in intervals["a"]])
    assert intervals["a"] == bootstrap_intervals({"a": values})["a"] != bootstrap_intervals({"a": values}, seed=1)["a"]


def test_ninety_five_of_a_hundred_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(3)
    held = [low < 0.5 < high for low, high in (bootstrap_intervals({"a": rng.random(200)})["a"] for _ in range(400))]
    assert 0.92 < np.mean(held) < 0.98


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4])
def test_the_p_value_is_that_of_scipy_over_all_exchanges(shift: float) -> None:
    # Steps of a quarter: many exchanges tie with what was observed, and rounding must not tell them apart.
    rng = np.random.default_rng(4)
    a, b = (rng.integers(0, 5, 12) / 4 + shift * 3 / 4, rng.integers(0, 5, 12) / 4)
    exact = scipy.stats.permutation_test((a, b), mean_difference, permutation_type="samples", n_resamples=np.inf).pvalue
    assert randomization_test(a, b, permutations=200_000) == pytest.approx(exact, abs=0.005)


@pytest.mark.parametrize(("differences", "p"), [([0.7, 0.8, 0.1, 0.8], 2 / 16), ([0.4, 0.2, -0.4, 0.0], 1.0)])
def test_exchanges_that_tie_with_the_observed_difference_count_as_extreme(differences: list[float], p: float) -> None:
    # In another order these sums round to something else; 0.4 - 0.4 - 0.2 is as far from 0 as 0.4 + 0.2 - 0.4.
    a, b = np.array(differences), np.zeros(4)
    assert randomization_test(a, b, permutations=100_000) == pytest.approx(p, abs=0.005)
    assert randomization_test(b, a, permutations=100_000) == pytest.approx(p, abs=0.005)


def test_runs_without_a_difference_have_a_p_value_of_one() -> None:
    values = np.random.default_rng(5).random(50)
    assert randomization_test(values, values) == 1.0


def test_a_clear_difference_has_the_smallest_p_value_that_there_is() -> None:
    values = np.random.default_rng(6).random(50)
    assert randomization_test(values + 0.1, values, permutations=999) == 1 / 1000


def test_alike_runs_are_called_different_at_five_percent_in_one_of_twenty_cases() -> None:
    rng = np.random.default_rng(7)
    p = [randomization_test(rng.random(40), rng.random(40), permutations=500, seed=seed) for seed in range(600)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_a_hundred_thousand_queries_take_seconds() -> None:
    values = {str(metric): np.random.default_rng(metric).random(100_000) for metric in range(9)}
    started = time.process_time()
    bootstrap_intervals(values)
    randomization_test(values["0"], values["1"])
    assert time.process_time() - started < 10

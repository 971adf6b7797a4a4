"""Score to weight, by tables computed by hand; a score that is no number is refused, or given a default."""

import math
from typing import Any

import pytest
import torch

from gcl.data.batch import Scores
from gcl.data.record import Record
from gcl.errors import UserError
from gcl.losses.objective import Weighting
from gcl.losses.weighting import ConstantWeight, LinearWeight, LogWeight, PiecewiseWeight, ReciprocalWeight

PIECEWISE = PiecewiseWeight({0: 0.1, 10: 1.0, 1: 0.5, 2.5: 0.0})

# weighting, {score: weight}: both ends of the range, what is beyond them, and between
TABLES: dict[str, tuple[Weighting, dict[float, float]]] = {
    "constant": (ConstantWeight(), {0: 1, 0.5: 1, 1e9: 1}),
    "linear": (LinearWeight(), {0: 0, 0.25: 0.25, 1: 1, 1.5: 1, 1e9: 1}),
    "linear_between_weights": (
        LinearWeight(max_score=100, min_weight=0.2, max_weight=2.0),
        {0: 0.2, 50: 1.1, 75: 1.55, 99: 1.982, 100: 2, 101: 2, 1e9: 2},
    ),
    "reciprocal": (ReciprocalWeight(), {0: 1 / 101, 1: 0.01, 50: 1 / 51, 98: 1 / 3, 99: 0.5, 100: 1, 101: 1, 1e9: 1}),
    "reciprocal_to_4": (ReciprocalWeight(max_score=4), {0: 0.2, 1: 0.25, 3.5: 1 / 1.5, 4: 1, 5: 1}),
    "log": (LogWeight(), {0: 0, 1: 0.15019048, 9: 0.49892199, 50: 0.85194430, 100: 1, 101: 1, 1e9: 1}),
    "log_to_3": (LogWeight(max_score=3), {0: 0, 1: 0.5, 3: 1, 4: 1}),  # log 2 / log 4
    "piecewise": (PIECEWISE, {0: 0.1, 0.99: 0.1, 1: 0.5, 2.25: 0.5, 2.5: 0, 9.99: 0, 10: 1, 11: 1, 1e9: 1}),
    "piecewise_of_one": (PiecewiseWeight({0: 3.0}), {0: 3, 1e9: 3}),
    # A threshold that float32 rounds is met by the same number, rounded too.
    "piecewise_at_a_rounded_threshold": (PiecewiseWeight({0: 0.0, 0.1: 1.0}), {0.09: 0, 0.1: 1}),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_are_those_of_the_table(name: str, dtype: torch.dtype) -> None:
    weighting, table = TABLES[name]
    weights = weighting(torch.tensor(list(table), dtype=dtype))
    torch.testing.assert_close(weights, torch.tensor(list(table.values()), dtype=dtype), rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", TABLES)
def test_weights_are_finite_even_for_scores_beyond_float32(name: str) -> None:
    weighting, table = TABLES[name]
    *_, at_the_end = table.values()
    assert float(weighting(torch.tensor([torch.inf]))) == pytest.approx(at_the_end)


def test_only_the_constant_needs_no_score() -> None:
    assert [name for name, (weighting, _) in TABLES.items() if not weighting.needs_score] == ["constant"]


@pytest.mark.parametrize("max_score", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("weighting", [LinearWeight, ReciprocalWeight, LogWeight])
def test_a_highest_score_that_is_not_above_0_is_refused(weighting: Any, max_score: float) -> None:
    with pytest.raises(UserError, match="weighting.max_score .* must be a number above 0"):
        weighting(max_score=max_score)


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_weights_that_are_negative_or_no_numbers_are_refused(weight: float) -> None:
    for build in (
        lambda: LinearWeight(min_weight=weight),
        lambda: LinearWeight(max_weight=weight),
        lambda: PiecewiseWeight({0: 1.0, 5: weight}),
    ):
        with pytest.raises(UserError, match="must be numbers from 0 up"):
            build()


@pytest.mark.parametrize(
    "weights", [{}, {1: 0.5}, {0.5: 1.0, 10: 2.0}, {-1: 0.5, 0: 1.0}, {0: 0.1, math.nan: 0.5, 10: 1.0}]
)
def test_piecewise_weights_that_do_not_start_at_score_0_are_refused(weights: dict[float, float]) -> None:
    with pytest.raises(UserError, match="must give a weight from score 0 on"):
        PiecewiseWeight(weights)


def record(number: int, **fields: Any) -> Record:
    return Record({"item_id": f"sku-{number}", **fields}, {}, f"products.csv:{number}")


GOOD = [record(1, score=0), record(2, score=3.5), record(3, score="7"), record(4, score=1e-3)]
BAD = {
    "nan": record(5, score=math.nan),
    "infinite": record(5, score=math.inf),
    "negative": record(5, score=-0.5),
    "text": record(5, score="high"),
    "text_nan": record(5, score="nan"),
    "text_negative": record(5, score="-3"),
    "empty": record(5, score=""),
    "null": record(5, score=None),
    "boolean": record(5, score=True),
    "too_large": record(5, score=10**400),
    "missing": record(5),
}


def test_scores_are_read_from_numbers_and_from_their_text() -> None:
    score, unscored = Scores(are_read=True).read(GOOD)
    assert score.dtype == torch.float32
    assert score.tolist() == pytest.approx([0, 3.5, 7, 1e-3])
    assert unscored == 0


@pytest.mark.parametrize("name", BAD)
def test_a_score_that_is_no_number_from_0_up_is_refused_naming_its_row(name: str) -> None:
    with pytest.raises(UserError) as error:
        Scores(are_read=True).read([*GOOD, BAD[name]])
    message = str(error.value)
    assert "\n" not in message
    assert "'sku-5' (products.csv:5)" in message
    assert f"has score {BAD[name].fields.get('score')!r}" in message
    assert "data.default_score=NUMBER" in message


@pytest.mark.parametrize("name", BAD)
def test_a_score_that_is_no_number_from_0_up_is_given_the_default_where_there_is_one(name: str) -> None:
    score, unscored = Scores(are_read=True, default=2.0).read([BAD[name], *GOOD, BAD[name]])
    assert score.tolist() == pytest.approx([2, 0, 3.5, 7, 1e-3, 2])
    assert unscored == 2


def test_a_default_of_0_counts_as_one() -> None:
    score, unscored = Scores(are_read=True, default=0.0).read([BAD["missing"]])
    assert (score.tolist(), unscored) == ([0.0], 1)


@pytest.mark.parametrize("name", BAD)
def test_scores_are_not_looked_at_where_no_weight_depends_on_them(name: str) -> None:
    score, unscored = Scores(are_read=False, default=2.0).read([*GOOD, BAD[name]])
    assert (score.tolist(), unscored) == ([1.0] * 5, 0)


def test_a_lowest_weight_above_the_highest_is_refused() -> None:
    with pytest.raises(UserError, match="weighting.min_weight 1 is above weighting.max_weight 0.5"):
        LinearWeight(min_weight=1, max_weight=0.5)

"""Score to weight: how much a row's own pair counts, by its score (GCL, arXiv 2404.08535).

The paper names the kinds of function; the constants it used are not known here, so each is a setting. Weights are used
as they come out, not rescaled. Scores are finite and not negative.
"""

import math

import torch
from torch import Tensor

from gcl.errors import UserError


class ConstantWeight:
    """weight = 1, whatever the score: plain contrastive training."""

    needs_score = False

    def __call__(self, score: Tensor) -> Tensor:
        """(rows,) -> (rows,)."""
        return torch.ones_like(score)


class LinearWeight:
    """weight = min_weight + (max_weight - min_weight) * min(score / max_score, 1), in [min_weight, max_weight]."""

    needs_score = True

    def __init__(
        self,
        max_score: float = 1.0,  # score from which the weight is max_weight
        min_weight: float = 0.0,  # weight of score 0
        max_weight: float = 1.0,  # weight of max_score and above
    ) -> None:
        check_max_score(max_score)
        check_weights([min_weight, max_weight])
        if min_weight > max_weight:
            raise UserError(f"weighting.min_weight {min_weight} is above weighting.max_weight {max_weight}; swap them")
        self.max_score, self.min_weight, self.max_weight = max_score, min_weight, max_weight

    def __call__(self, score: Tensor) -> Tensor:
        """(rows,) -> (rows,)."""
        return self.min_weight + (self.max_weight - self.min_weight) * (score / self.max_score).clamp(max=1.0)


class ReciprocalWeight:
    """weight = 1 / (1 + max_score - min(score, max_score)), in [1 / (1 + max_score), 1].

    With scores that count down from the first rank (max_score for rank 1), it is 1 / rank.
    """

    needs_score = True

    def __init__(
        self,
        max_score: float = 100.0,  # score from which the weight is 1
    ) -> None:
        check_max_score(max_score)
        self.max_score = max_score

    def __call__(self, score: Tensor) -> Tensor:
        """(rows,) -> (rows,)."""
        return 1 / (1 + self.max_score - score.clamp(max=self.max_score))


class LogWeight:
    """weight = log(1 + min(score, max_score)) / log(1 + max_score), in [0, 1]."""

    needs_score = True

    def __init__(
        self,
        max_score: float = 100.0,  # score from which the weight is 1
    ) -> None:
        check_max_score(max_score)
        self.max_score = max_score

    def __call__(self, score: Tensor) -> Tensor:
        """(rows,) -> (rows,)."""
        return torch.log1p(score.clamp(max=self.max_score)) / math.log1p(self.max_score)


class PiecewiseWeight:
    """weight = that of the highest threshold that is not above the score, one of those given."""

    needs_score = True

    def __init__(
        self,
        weights: dict[float, float],  # score -> weight from there on, such as {0: 0.1, 1: 0.5, 10: 1.0}; one is for 0
    ) -> None:
        if 0 not in weights or not all(0 <= threshold < math.inf for threshold in weights):
            raise UserError(
                f"weighting.weights {weights} must give a weight from score 0 on, such as {{0: 0.1, 10: 1.0}}"
            )
        check_weights(list(weights.values()))
        self.thresholds = sorted(weights)
        self.weights = [weights[threshold] for threshold in self.thresholds]

    def __call__(self, score: Tensor) -> Tensor:
        """(rows,) -> (rows,)."""
        thresholds = torch.tensor(self.thresholds, dtype=score.dtype, device=score.device)
        weights = torch.tensor(self.weights, dtype=score.dtype, device=score.device)
        return weights[torch.searchsorted(thresholds, score, right=True) - 1]


def check_max_score(max_score: float) -> None:
    if not 0 < max_score < math.inf:
        raise UserError(f"weighting.max_score {max_score} must be a number above 0, the highest score that counts")


def check_weights(weights: list[float]) -> None:
    if not all(0 <= weight < math.inf for weight in weights):
        raise UserError(f"weighting: weights {weights} must be numbers from 0 up")

"""The objective of a run: a weighted sum of one pair loss over pairs of sides (GCL, arXiv 2404.08535)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gcl.errors import UserError
from gcl.losses.rows import PairRows
from gcl.losses.side import side_embedding

# (fields, present, identities, weight, logit_scale, logit_bias) -> this process's share of the loss
Loss = Callable[[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor, Tensor, Tensor], Tensor]


class PairLoss(Protocol):
    """The loss of one pair of sides over the batch."""

    needs_bias: bool  # whether a start without a logit bias cannot be trained with it

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor: ...


@dataclass
class Pair:
    """Two sides that belong together in every row."""

    left: dict[str, float]  # field -> weight, such as {query: 1.0}
    right: dict[str, float]  # field -> weight, such as {image: 0.9, title: 0.1}
    weight: float = 1.0  # of this pair's loss in the sum
    same: list[str] = field(default_factory=list)  # equal in one: no negatives; []: item_id and both sides' texts


class Objective:
    """sum over pairs of (pair weight) x (pair loss), with one logit scale and one logit bias for all.

    A row takes part in a pair when each side has at least one of its fields.
    """

    def __init__(
        self,
        pairs: list[Pair],  # the pairs of sides
    ) -> None:
        if not pairs:
            raise UserError(
                "objective.pairs is empty; give at least one, such as [{left: {title: 1.0}, right: {image: 1.0}}]"
            )
        for pair in pairs:
            for side in (pair.left, pair.right):
                if not side or any(weight <= 0 for weight in side.values()):
                    raise UserError(f"objective side {side} needs at least one field, each with a weight above 0")
        self.pairs = pairs

    @property
    def fields(self) -> list[str]:
        """Every field that a side names, once."""
        return list(dict.fromkeys(name for pair in self.pairs for side in (pair.left, pair.right) for name in side))

    @property
    def identity_fields(self) -> list[str]:
        """Every field whose equality between rows matters."""
        return list(dict.fromkeys(["item_id", *self.fields, *(name for pair in self.pairs for name in pair.same)]))

    def check_same(self, text_fields: list[str]) -> None:
        """Refuse a pair that would compare something else than text."""
        for name in (name for pair in self.pairs for name in pair.same):
            if name not in text_fields:
                raise UserError(f"objective.pairs.same names {name!r}, which is no text field; images are not compared")

    def loss(
        self,
        pair_loss: PairLoss,
        fields: dict[str, Tensor],
        present: dict[str, Tensor],
        identities: dict[str, Tensor],
        weight: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor,
    ) -> Tensor:
        """This process's share of the loss; the mean over processes is the loss (all ranks participate).

        Args:
            fields: field -> (local rows, dim) normalised embeddings.
            present: field -> (local rows,) bool.
            identities: field -> (local rows,) int64 hash of the value, 0 where unknown; images have none.
            weight: (local rows,) of each row's own pairs.
        """
        total = torch.zeros((), device=weight.device)
        for pair in self.pairs:
            left, has_left = side_embedding(pair.left, fields, present)
            right, has_right = side_embedding(pair.right, fields, present)
            same = pair.same or ["item_id", *pair.left, *pair.right]
            rows = PairRows(
                left, right, has_left & has_right, weight, [identities[name] for name in same if name in identities]
            )
            total = total + pair.weight * pair_loss(rows, logit_scale, logit_bias)
        return total

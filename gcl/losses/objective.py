"""The objective of a run: a weighted sum of one pair loss over pairs of sides (GCL, arXiv 2404.08535)."""

import math
from collections.abc import Callable, Collection
from typing import Protocol

import torch
from torch import Tensor

from gcl.errors import UserError
from gcl.losses.pair import HASH, ITEM_ID, NEGATIVES, Pair, pair_rows, prefix_rows
from gcl.losses.rows import PairRows

# (fields, present, identities, score, logit_scale, logit_bias) -> this process's share of the loss
Loss = Callable[[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor, Tensor, Tensor], Tensor]


class PairLoss(Protocol):
    """The loss of one pair of sides over the batch."""

    needs_bias: bool  # whether a start without a logit bias cannot be trained with it

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor: ...


class Weighting(Protocol):
    """Score to weight."""

    needs_score: bool  # whether a row without a score is a mistake

    def __call__(self, score: Tensor) -> Tensor: ...


class Objective:
    """sum over pairs of (pair weight) x (pair loss), with one logit scale and one logit bias for all.

    A row takes part in a pair when each side has at least one of its fields. Explicit negatives, fields named like
    those of the right side behind `negatives.`, are further right columns for all rows of every pair.
    """

    def __init__(
        self,
        pairs: list[Pair],  # the pairs of sides
        matryoshka: dict[int, float] | None = None,  # prefix of the embedding -> weight of its loss beside the whole's
    ) -> None:
        if not pairs:
            raise UserError(
                "objective.pairs is empty; give at least one, such as [{left: {title: 1.0}, right: {image: 1.0}}]"
            )
        for dim, weight in (matryoshka or {}).items():
            if dim < 1 or not 0 < weight < math.inf:
                raise UserError(f"objective.matryoshka {{{dim}: {weight}}} needs a dimension and a weight above 0")
        self.pairs, self.matryoshka = pairs, matryoshka or {}

    @property
    def fields(self) -> list[str]:
        """Every field that a side names, once."""
        return list(dict.fromkeys(name for pair in self.pairs for side in (pair.left, pair.right) for name in side))

    def negative_fields(self, known: Collection[str]) -> list[str]:
        """The fields of an explicit negative, of those that rows have.

        Raises:
            UserError: they have none.
        """
        wanted = list(dict.fromkeys(NEGATIVES + name for pair in self.pairs for name in pair.right))
        fields = [name for name in wanted if name in known]
        if not fields:
            raise UserError(
                f"data.negatives asks for {' or '.join(wanted)}, which no row has; gcl mine finds negatives "
                "(data.negatives=FOLDER)"
            )
        return fields

    @property
    def identity_fields(self) -> list[str]:
        """Every field whose equality between rows matters."""
        return list(dict.fromkeys([ITEM_ID, *self.fields, *(name for pair in self.pairs for name in pair.same or [])]))

    def negative_identity_fields(self, known: Collection[str]) -> list[str]:
        """What tells an explicit negative that is another row's positive, of the fields that rows have."""
        return [NEGATIVES + name for name in self.identity_fields if NEGATIVES + name in known]

    def check_same(self, text_fields: list[str]) -> None:
        """Refuse a pair that would compare something else than text."""
        for name in (name for pair in self.pairs for name in pair.same or []):
            if name not in text_fields:
                raise UserError(
                    f"objective.pairs.same names {name!r}, which is no text field; an image is compared by {name}{HASH}"
                )

    def check_dimension(self, dim: int) -> None:
        """Refuse a prefix that is no shorter than the embedding."""
        for dimensions in self.matryoshka:
            if dimensions >= dim:
                raise UserError(
                    f"objective.matryoshka names {dimensions} dimensions; the model has {dim}, so give fewer"
                )

    def loss(
        self,
        pair_loss: PairLoss,
        weighting: Weighting,
        fields: dict[str, Tensor],
        present: dict[str, Tensor],
        identities: dict[str, Tensor],
        score: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor,
    ) -> Tensor:
        """This process's share of the loss; the mean over processes is the loss (all ranks participate).

        Args:
            fields: field -> (local rows, dim) normalised embeddings.
            present: field -> (local rows,) bool.
            identities: field -> (local rows,) int64 hash of the value, 0 where unknown; images have none.
            score: (local rows,) of each row's own pairs.
        """
        weight = weighting(score)
        total = torch.zeros((), device=score.device)
        for pair in self.pairs:
            whole = pair_rows(pair, fields, present, identities, weight)
            total = total + pair.weight * pair_loss(whole, logit_scale, logit_bias)
            for dim, prefix_weight in self.matryoshka.items():
                prefix_loss = pair_loss(prefix_rows(whole, dim), logit_scale, logit_bias)
                total = total + pair.weight * prefix_weight * prefix_loss
        return total

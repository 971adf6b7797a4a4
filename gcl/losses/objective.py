"""The objective of a run: a weighted sum of one pair loss over pairs of sides (GCL, arXiv 2404.08535)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from gcl.errors import UserError
from gcl.losses.rows import FalseNegatives, Identity, PairRows
from gcl.losses.side import prefix, side_embedding

ITEM_ID = "item_id"  # of the right side: rows that agree in it are the same product
HASH = ".hash"  # behind an image field's name: the field that holds its hash
NEGATIVES = "negatives."  # before a field's name: the field of a row's explicit negative

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


@dataclass
class Pair:
    """Two sides that belong together in every row."""

    left: dict[str, float]  # field -> weight, such as {query: 1.0}
    right: dict[str, float]  # field -> weight, such as {image: 0.9, title: 0.1}
    weight: float = 1.0  # of this pair's loss in the sum
    same: list[str] = field(default_factory=list)  # equal in one: no negatives; []: item_id and both sides' texts
    false_negatives: FalseNegatives = "ignore"  # what rows equal in one are to each other: ignored, or positive

    def __post_init__(self) -> None:
        for side in (self.left, self.right):
            if not side or any(weight <= 0 for weight in side.values()):
                raise UserError(f"objective side {side} needs at least one field, each with a weight above 0")
        for name in self.same if self.false_negatives == "positive" else []:
            if not (self.is_of(self.left, name) or self.is_of(self.right, name)):
                raise UserError(
                    f"objective.pairs.same names {name!r}, a field of neither side: rows equal in it can be ignored, "
                    "not made positives; remove it, or set false_negatives: ignore"
                )

    def is_of(self, side: dict[str, float], name: str) -> bool:
        """Whether rows equal in a field have the same side: one of its fields, an image's hash, or the right's id."""
        return name.removesuffix(HASH) in side or (name == ITEM_ID and side is self.right)


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
            if dim < 1 or weight <= 0:
                raise UserError(f"objective.matryoshka {{{dim}: {weight}}} needs a dimension and a weight above 0")
        self.pairs, self.matryoshka = pairs, matryoshka or {}

    @property
    def fields(self) -> list[str]:
        """Every field that a side names, once."""
        return list(dict.fromkeys(name for pair in self.pairs for side in (pair.left, pair.right) for name in side))

    @property
    def negative_fields(self) -> list[str]:
        """Every field of an explicit negative."""
        return list(dict.fromkeys(NEGATIVES + name for pair in self.pairs for name in pair.right))

    @property
    def identity_fields(self) -> list[str]:
        """Every field whose equality between rows matters."""
        return list(dict.fromkeys([ITEM_ID, *self.fields, *(name for pair in self.pairs for name in pair.same)]))

    @property
    def negative_identity_fields(self) -> list[str]:
        """What tells an explicit negative that is another row's positive."""
        return [NEGATIVES + name for name in self.identity_fields]

    def check_same(self, text_fields: list[str]) -> None:
        """Refuse a pair that would compare something else than text."""
        for name in (name for pair in self.pairs for name in pair.same):
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


def pair_rows(
    pair: Pair,
    fields: dict[str, Tensor],
    present: dict[str, Tensor],
    identities: dict[str, Tensor],
    weight: Tensor,
) -> PairRows:
    """One pair's sides, the rows that take part, and the fields that tell its false negatives."""
    left, has_left = side_embedding(pair.left, fields, present)
    right, has_right = side_embedding(pair.right, fields, present)
    rows = PairRows(left, right, has_left & has_right, weight, false_negatives=pair.false_negatives)
    for name in pair.same or [name for name in (ITEM_ID, *pair.left, *pair.right) if name in identities]:
        of_left, of_right = pair.is_of(pair.left, name), pair.is_of(pair.right, name)
        rows.identities.append(Identity(identities[name], of_left, of_right, identities.get(NEGATIVES + name)))
    negative = {NEGATIVES + name: weight for name, weight in pair.right.items() if NEGATIVES + name in fields}
    if negative:
        rows.negatives, rows.has_negative = side_embedding(negative, fields, present)
    return rows


def prefix_rows(rows: PairRows, dim: int) -> PairRows:
    """The same rows with a prefix of their sides."""
    negatives = None if rows.negatives is None else prefix(rows.negatives, dim)
    return replace(rows, left=prefix(rows.left, dim), right=prefix(rows.right, dim), negatives=negatives)

"""A pair of sides: what belongs together in every row, and which rows are no negatives of each other."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from gcl.errors import UserError
from gcl.losses.rows import FalseNegatives, Identity, PairRows
from gcl.losses.side import Side, prefix, side_embedding

ITEM_ID = "item_id"  # of the right side: rows that agree in it are the same product
HASH = ".hash"  # behind an image field's name: the field that holds its hash
NEGATIVES = "negatives."  # before a field's name: the field of a row's explicit negative


@dataclass
class Pair:
    """Two sides that belong together in every row."""

    left: Side  # field -> weight, such as {query: 1.0}
    right: Side  # field -> weight, such as {image: 0.9, title: 0.1}
    weight: float = 1.0  # of this pair's loss in the sum
    same: list[str] | None = None  # rows equal in one are no negatives; null: item_id and both sides' texts; []: none
    false_negatives: FalseNegatives = "ignore"  # what rows equal in one are to each other: ignored, or positive

    def __post_init__(self) -> None:
        for side in (self.left, self.right):
            if not side or not all(0 < weight < math.inf for weight in side.values()):
                raise UserError(f"objective side {side} needs at least one field, each with a weight above 0")
        if not 0 < self.weight < math.inf:
            raise UserError(f"objective.pairs.weight {self.weight} must be a number above 0; leave out a pair of none")
        for name in (self.same or []) if self.false_negatives == "positive" else []:
            if not (self.is_of(self.left, name) or self.is_of(self.right, name)):
                raise UserError(
                    f"objective.pairs.same names {name!r}, a field of neither side: rows equal in it can be ignored, "
                    "not made positives; remove it, or set false_negatives: ignore"
                )

    def same_fields(self, identities: dict[str, Tensor]) -> list[str]:
        """The fields in which rows are compared, of those whose values are there; images have none by default."""
        default = [name for name in (ITEM_ID, *self.left, *self.right) if name in identities]
        return list(dict.fromkeys(default if self.same is None else self.same))

    def is_of(self, side: Side, name: str) -> bool:
        """Whether rows equal in a field have the same side: one of its fields, an image's hash, or the right's id."""
        return name.removesuffix(HASH) in side or (name == ITEM_ID and side is self.right)


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
    for name in pair.same_fields(identities):
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

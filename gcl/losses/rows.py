"""One pair of sides over this process's rows: what a pair loss is given."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

FalseNegatives = Literal["ignore", "positive"]


@dataclass
class Identity:
    """One field whose equal values tell false negatives."""

    values: Tensor  # (local rows,) int64 hashes; 0: unknown, equal to nothing
    of_left: bool  # a field of the left side: rows that agree in it have the same left side
    of_right: bool  # item_id or a field of the right side
    of_negatives: Tensor | None = None  # (local rows,) of the rows' explicit negatives


@dataclass
class PairRows:
    """The local rows of a pair of sides; every process has as many."""

    left: Tensor  # (local rows, dim) L2-normalised
    right: Tensor  # (local rows, dim) L2-normalised
    takes_part: Tensor  # (local rows,) bool: both sides have a field
    weight: Tensor  # (local rows,) of each row's own pair
    identities: list[Identity] = field(default_factory=list)  # rows equal in one are not each other's negatives
    false_negatives: FalseNegatives = "ignore"  # what they are instead
    negatives: Tensor | None = None  # (local rows, dim) explicit negatives: further right columns for all rows
    has_negative: Tensor | None = None  # (local rows,) bool

"""One pair of sides over the batch: which rows take part, and which columns are their negatives."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gcl.distributed import all_sum, gather, rank


@dataclass
class PairRows:
    """The local rows of a pair of sides.

    Gathering the masks is collective: all ranks make one together, and read its properties together.
    """

    left: Tensor  # (local rows, dim) float32
    right: Tensor  # (local rows, dim) float32
    takes_part: Tensor  # (local rows,) bool: both sides have a field
    weight: Tensor  # (local rows,) float32
    identities: list[
        Tensor
    ]  # each (local rows,) int64: rows equal in any of them are not each other's negatives; 0: unknown

    @cached_property
    def count(self) -> Tensor:
        """Rows taking part over all processes, at least 1 (all ranks participate)."""
        return all_sum(self.takes_part.sum()).clamp(min=1)

    @cached_property
    def own_columns(self) -> Tensor:
        """(local rows, global columns) bool: each row's own column."""
        rows = len(self.left)
        columns = torch.arange(self.negatives.shape[1], device=self.left.device)
        return columns[None] == columns[rank() * rows : (rank() + 1) * rows, None]

    @cached_property
    def negatives(self) -> Tensor:
        """(local rows, global columns) bool (all ranks participate)."""
        same = torch.zeros(1, dtype=torch.bool, device=self.left.device)
        for identity in self.identities:
            same = same | ((identity[:, None] == gather(identity)[None]) & (identity != 0)[:, None])
        columns = gather(self.takes_part.to(torch.uint8)).bool()
        rows = len(self.left)
        start = rank() * rows
        negatives = (columns[None] & self.takes_part[:, None] & ~same).clone()
        negatives[torch.arange(rows), start + torch.arange(rows)] = False
        return negatives

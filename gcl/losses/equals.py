"""False negatives: which rows and columns of a batch have the same value of a field."""

from collections.abc import Callable

import torch
from torch import Tensor

from gcl.distributed import gather
from gcl.losses.rows import Identity


class Equals:
    """Where rows and columns agree. Making one gathers (all ranks participate).

    Args:
        identities: the fields that are compared.
        rows: which local rows the rows are: (local rows,) bool.
        columns: which of everyone's rows the columns are: (world * local rows,) bool.
        negatives: which of everyone's explicit negatives are columns behind them, where there are any.
    """

    def __init__(self, identities: list[Identity], rows: Tensor, columns: Tensor, negatives: Tensor | None) -> None:
        self.identities = identities
        self.rows = [identity.values[rows] for identity in identities]  # each (rows,) int64
        self.columns = [gather(identity.values)[columns] for identity in identities]  # each (columns,) int64
        if negatives is not None:
            for number, identity in enumerate(identities):
                values = identity.of_negatives
                values = gather(torch.zeros_like(identity.values) if values is None else values)
                self.columns[number] = torch.cat([self.columns[number], values[negatives]])
        self.repeated = [repeated(*values) for values in zip(self.rows, self.columns, strict=True)]

    def in_blocks(self, blocks: list[slice]) -> list[bool]:
        """For each block of rows, whether any of them agrees with another column."""
        if not self.repeated:
            return [False] * len(blocks)
        repeated = torch.stack(self.repeated).any(0).cpu()
        return [bool(repeated[block].any()) for block in blocks]

    def agree(self, rows: slice, columns: slice, side: Callable[[Identity], bool]) -> Tensor:
        """Where rows and columns agree in one of a side's fields: (rows, columns) bool."""
        device = self.repeated[0].device
        equal = torch.zeros(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.bool, device=device)
        for number, identity in enumerate(self.identities):
            if side(identity):
                # Most rows' values occur once; only the others are compared.
                candidates = self.repeated[number][rows].nonzero().squeeze(1)
                values = self.rows[number][rows][candidates]
                equal[candidates] |= values[:, None] == self.columns[number][None, columns]
        return equal


def repeated(rows: Tensor, columns: Tensor) -> Tensor:
    """Which rows' values two columns or more have: (rows,) bool; 0, an unknown value, is equal to nothing."""
    ordered = columns.sort().values
    occurrences = torch.searchsorted(ordered, rows, right=True) - torch.searchsorted(ordered, rows)
    return (occurrences > 1) & (rows != 0)

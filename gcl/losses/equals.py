"""False negatives: which rows and columns of a batch have the same value of a field."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl.distributed import gather
from gcl.losses.rows import Identity


@dataclass
class BlockEquals:
    """A block of rows, some of which have the same value as other columns."""

    height: int  # rows
    identities: list[Identity]
    candidates: list[Tensor]  # for each field, the places of rows whose value is repeated; others are not compared
    rows: list[Tensor]  # for each field, the candidates' values
    columns: list[Tensor]  # for each field, all columns' values

    def agree(self, columns: slice, has_part: Callable[[Identity], bool]) -> Tensor:
        """Where rows and columns agree in one of the fields that have a part: (rows, columns) bool."""
        width, device = columns.stop - columns.start, self.columns[0].device
        equal = torch.zeros(self.height, width, dtype=torch.bool, device=device)
        for identity, candidates, rows, values in zip(
            self.identities, self.candidates, self.rows, self.columns, strict=True
        ):
            if has_part(identity):
                equal[candidates] |= rows[:, None] == values[None, columns]
        return equal


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

    def in_blocks(self, blocks: list[slice]) -> list[BlockEquals | None]:
        """Each block of rows, None where no row of it agrees with another column."""
        if not self.repeated:
            return [None] * len(blocks)
        repeated = torch.stack(self.repeated).cpu()  # (fields, rows): one wait for the device, not one for each tile
        return [self._block(block, repeated[:, block]) for block in blocks]

    def _block(self, block: slice, repeated: Tensor) -> BlockEquals | None:
        if not repeated.any():
            return None
        device = self.columns[0].device
        candidates = [field.nonzero().squeeze(1).to(device) for field in repeated]
        rows = [values[block][places] for values, places in zip(self.rows, candidates, strict=True)]
        return BlockEquals(repeated.shape[1], self.identities, candidates, rows, self.columns)


def repeated(rows: Tensor, columns: Tensor) -> Tensor:
    """Which rows' values two columns or more have: (rows,) bool; 0, an unknown value, is equal to nothing."""
    ordered = columns.sort().values
    occurrences = torch.searchsorted(ordered, rows, right=True) - torch.searchsorted(ordered, rows)
    return (occurrences > 1) & (rows != 0)

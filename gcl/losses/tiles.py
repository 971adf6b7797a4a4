"""The matrix of logits that is never whole: this process's rows against everyone's columns, tile by tile."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl.distributed import gather, rank, sum_of_own_rows, world_size
from gcl.errors import UserError
from gcl.losses.equals import BlockEquals, Equals
from gcl.losses.rows import PairRows

CPU_TILE, GPU_TILE = 1024, 8192  # rows and columns of a tile: what a cache holds, and what fills a GPU


@dataclass
class Tile:
    """Some rows against some columns."""

    rows: slice
    columns: slice
    diagonal: int  # where the rows' own pairs lie, as in torch.diagonal
    ignored: Tensor | None = None  # (rows, columns) bool: pairs that are neither positive nor negative
    positive: Tensor | None = None  # (rows, columns) bool: positives beside the rows' own
    positive_weight: Tensor | None = None  # (rows, columns): theirs

    @property
    def own_rows(self) -> slice:
        """The rows whose own pair lies in this tile."""
        width = self.columns.stop - self.columns.start
        first = self.rows.start + max(0, -self.diagonal)
        return slice(first, max(first, min(self.rows.stop, self.rows.start + width - self.diagonal)))

    def own(self, matrix: Tensor) -> Tensor:
        """A view of the own pairs of `own_rows`, in a matrix of (rows, columns)."""
        return matrix.diagonal(self.diagonal)


class LogitMatrix:
    """Rows that take part here, and all columns they meet: everyone's rows that take part, then explicit negatives.

    Making one gathers (all ranks participate); reading its tiles does not communicate.
    """

    def __init__(self, pair: PairRows) -> None:
        self.pair = pair
        self.takes_part = gather(pair.takes_part.to(torch.uint8)).bool()  # (world * local rows,)
        counts: list[int] = self.takes_part.view(world_size(), -1).sum(1).tolist()
        self.count = sum(counts)  # rows taking part over all processes
        self.first_own_column = sum(counts[: rank()])
        self.left = chosen(pair.left.detach(), pair.takes_part, counts[rank()])  # (rows, dim)
        self.weight = chosen(pair.weight, pair.takes_part, counts[rank()])  # (rows,)
        self.right = chosen(gather(pair.right), self.takes_part, self.count)  # (columns, dim)
        self.column_weight = chosen(gather(pair.weight), self.takes_part, self.count)  # (count,)
        self.negative_present: Tensor | None = None  # (world * local rows,) bool
        if pair.negatives is not None and pair.has_negative is not None:
            self.negative_present = gather(pair.has_negative.to(torch.uint8)).bool()
            self.right = torch.cat([self.right, gather(pair.negatives)[self.negative_present]])
        self.equals = Equals(pair.identities, pair.takes_part, self.takes_part, self.negative_present)

    def tiles(self, size: int | None) -> Iterator[Tile]:
        """Every tile, row block by row block.

        Args:
            size: rows and columns of a tile; null: what suits the device.
        """
        size = size or (CPU_TILE if self.left.device.type == "cpu" else GPU_TILE)
        row_blocks = blocks(len(self.left), size)
        for rows, equals in zip(row_blocks, self.equals.in_blocks(row_blocks), strict=True):
            for columns in blocks(len(self.right), size):
                tile = Tile(rows, columns, self.first_own_column + rows.start - columns.start)
                if equals:
                    self._find_false_negatives(tile, equals)
                yield tile

    def columns_in_batch(self, tile: Tile) -> int:
        """How many of a tile's columns are rows of the batch; explicit negatives are behind them."""
        return max(0, min(tile.columns.stop, self.count) - tile.columns.start)

    def own_columns(self, rows: slice) -> slice:
        """The columns that are these rows' own."""
        return slice(self.first_own_column + rows.start, self.first_own_column + rows.stop)

    def gathered(self, values: Tensor) -> Tensor:
        """A value of each row as everyone's, in the order of the columns: (count,) (all ranks participate)."""
        return chosen(gather(spread(values, self.pair.takes_part)), self.takes_part, self.count)

    def own_gradients(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of this process's embeddings, from those of the matrix's rows and columns (all ranks participate).

        The last that is asked of a matrix: it lets go of its columns.

        Args:
            left: (rows, dim).
            right: (columns, dim), of this process's share of the loss.

        Returns:
            (local rows, dim) each, of left, right and explicit negatives; the latter two summed over processes.
        """
        del self.right
        own_right = sum_of_own_rows(spread(right[: self.count], self.takes_part))
        negatives = None
        if self.negative_present is not None:
            negatives = sum_of_own_rows(spread(right[self.count :], self.negative_present))
        return spread(left, self.pair.takes_part), own_right, negatives

    def _find_false_negatives(self, tile: Tile, equals: BlockEquals) -> None:
        """Fill in what is ignored, or positive beside the rows' own."""
        if self.pair.false_negatives == "ignore":
            tile.ignored = equals.agree(tile.columns, lambda field: True)
            tile.own(tile.ignored).fill_(False)
            return
        left = equals.agree(tile.columns, lambda field: field.of_left)
        right = equals.agree(tile.columns, lambda field: field.of_right)
        same = left | right
        tile.own(same).fill_(False)
        tile.positive = same.clone()
        tile.positive[:, self.columns_in_batch(tile) :] = False  # explicit negatives are ignored
        tile.ignored = same & ~tile.positive
        tile.positive_weight = self._positive_weight(tile, left, right)

    def _positive_weight(self, tile: Tile, same_left: Tensor, same_right: Tensor) -> Tensor:
        """The column's weight where the left sides agree, the row's where the right ones do, the mean where both."""
        of_columns = self.column_weight.new_zeros(tile.columns.stop - tile.columns.start)
        weights = self.column_weight[tile.columns]
        of_columns[: len(weights)] = weights
        total = same_left * of_columns + same_right * self.weight[tile.rows, None]
        return total / (same_left.int() + same_right.int()).clamp(min=1)


def checked_tile_size(size: int | None) -> int | None:
    if size is not None and size < 1:
        raise UserError(f"loss.tile_size {size} must be at least 1, or null for what suits the device")
    return size


def blocks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def chosen(tensor: Tensor, mask: Tensor, count: int) -> Tensor:
    """The rows that a mask of `count` trues chooses; the tensor itself where it chooses all."""
    return tensor if count == len(tensor) else tensor[mask]


def spread(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows put back where a mask chose them, zeros elsewhere."""
    if len(rows) == len(mask):
        return rows
    tensor = rows.new_zeros(len(mask), *rows.shape[1:])
    tensor[mask] = rows
    return tensor

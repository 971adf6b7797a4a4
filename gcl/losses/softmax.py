"""The softmax pair loss of CLIP, weighted by row as in GCL (arXiv 2404.08535), over the global batch and in tiles."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl.distributed import all_sum, gather, world_size
from gcl.losses.rows import PairRows
from gcl.losses.streamed import Swept, streamed
from gcl.losses.tiles import LogitMatrix, Tile, checked_tile_size


class SoftmaxLoss:
    """(1/2n) sum_i w_i (row_i + column_i), cross entropies of a row's own pair against its row and its column.

    What is ignored leaves the denominator; with several positives, the mean of their -log softmax; n is the number of
    rows taking part, over all processes. A bias cancels in a softmax: it gets a gradient of 0.
    """

    needs_bias = False

    def __init__(
        self,
        tile_size: int | None = None,  # rows and columns computed at once; null: 1024 on a CPU, 8192 on a GPU
    ) -> None:
        self.tile_size = checked_tile_size(tile_size)

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
        """This process's share, a scalar; its mean over processes is the loss (all ranks participate)."""
        return streamed(self._sweep, rows, logit_scale, logit_bias)

    def _sweep(self, matrix: LogitMatrix, scale: Tensor, bias: Tensor, wants_gradients: bool) -> Swept:
        """One sweep for the denominators, which give the loss, and one for the gradients (all ranks participate)."""
        lines = self._measure_lines(matrix, scale)
        left_gradient, right_gradient = torch.zeros_like(matrix.left), torch.zeros_like(matrix.right)
        for tile in matrix.tiles(self.tile_size) if wants_gradients else ():
            slopes = lines.slopes(tile_logits(matrix, tile, scale), matrix, tile)
            left_gradient[tile.rows].addmm_(slopes, matrix.right[tile.columns])
            right_gradient[tile.columns].addmm_(slopes.T, matrix.left[tile.rows])
        return Swept(lines.loss(matrix), left_gradient, right_gradient, torch.zeros_like(bias))

    def _measure_lines(self, matrix: LogitMatrix, scale: Tensor) -> "Lines":
        """Sums over whole rows and columns of the batch's logits (all ranks participate)."""
        rows, columns = matrix.left[:, 0], matrix.right[: matrix.count, 0]
        row_log_sum, column_log_sum = torch.full_like(rows, -torch.inf), torch.full_like(columns, -torch.inf)
        row_positive, column_positive = torch.zeros_like(rows), torch.zeros_like(columns)
        positives = torch.ones_like(rows)
        for tile in matrix.tiles(self.tile_size):
            logits = tile_logits(matrix, tile, scale)
            row_log_sum[tile.rows] = torch.logaddexp(row_log_sum[tile.rows], logits.logsumexp(1))
            in_batch = logits[:, : matrix.columns_in_batch(tile)]
            columns_here = slice(tile.columns.start, tile.columns.start + in_batch.shape[1])
            if in_batch.shape[1]:
                column_log_sum[columns_here] = torch.logaddexp(column_log_sum[columns_here], in_batch.logsumexp(0))
            own = tile.own(logits)
            row_positive[tile.own_rows] += own
            column_positive[matrix.own_columns(tile.own_rows)] += own
            if tile.positive is not None:
                others = in_batch.where(tile.positive[:, : in_batch.shape[1]], 0.0)
                row_positive[tile.rows] += others.sum(1)
                column_positive[columns_here] += others.sum(0)
                positives[tile.rows] += tile.positive.sum(1)
        return Lines(
            row_log_sum,
            gather(column_log_sum).view(world_size(), matrix.count).logsumexp(0),
            row_positive,
            all_sum(column_positive),
            positives,
            matrix.gathered(positives),
        )


@dataclass
class Lines:
    """Sums over the rows and columns of the logits."""

    row_log_sum: Tensor  # (rows,) log-sum-exp of what is not ignored
    column_log_sum: Tensor  # (count,)
    row_positive: Tensor  # (rows,) sum of positives' logits
    column_positive: Tensor  # (count,)
    row_positives: Tensor  # (rows,) how many they are; equal fields are symmetric, so a column has its row's number
    column_positives: Tensor  # (count,)

    def loss(self, matrix: LogitMatrix) -> Tensor:
        """Half the weighted cross entropies of this process's rows, and of the columns that are its own."""
        own = matrix.own_columns(slice(0, len(self.row_log_sum)))
        row = self.row_log_sum - self.row_positive / self.row_positives
        column = self.column_log_sum[own] - self.column_positive[own] / self.row_positives
        return (matrix.weight * (row + column)).sum() / 2

    def slopes(self, logits: Tensor, matrix: LogitMatrix, tile: Tile) -> Tensor:
        """The derivatives of the whole batch's loss by these logits: (rows, columns)."""
        rows, width = tile.rows, matrix.columns_in_batch(tile)
        columns = slice(tile.columns.start, tile.columns.start + width)
        row_weight, column_weight = matrix.weight[rows] / 2, matrix.column_weight[columns] / 2
        slopes = (logits - self.row_log_sum[rows, None]).exp_().mul_(row_weight[:, None])
        slopes[:, :width] += (logits[:, :width] - self.column_log_sum[columns]).exp_().mul_(column_weight)
        row_share, column_share = row_weight / self.row_positives[rows], column_weight / self.column_positives[columns]
        own_rows = slice(tile.own_rows.start - rows.start, tile.own_rows.stop - rows.start)
        tile.own(slopes).sub_(row_share[own_rows] + tile.own(column_share.expand(len(row_share), -1)))
        if tile.positive is not None:
            slopes[:, :width] -= tile.positive[:, :width] * (row_share[:, None] + column_share)
        return slopes


def tile_logits(matrix: LogitMatrix, tile: Tile, scale: Tensor) -> Tensor:
    """scale * cosine, -inf for what is ignored: (rows, columns)."""
    logits = matrix.left[tile.rows] * scale @ matrix.right[tile.columns].T
    return logits if tile.ignored is None else logits.masked_fill_(tile.ignored, -torch.inf)

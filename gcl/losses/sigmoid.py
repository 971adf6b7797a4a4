"""The sigmoid pair loss of SigLIP (arXiv 2303.15343) with weights, over the global batch, streamed over tiles."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gcl.losses.rows import PairRows
from gcl.losses.streamed import Swept, streamed
from gcl.losses.tiles import LogitMatrix, Tile, checked_tile_size

LINEAR_FROM = 40.0  # softplus(x) = x from here on, to the last digit of float64


class SigmoidLoss:
    """(1/n) sum_ij m_ij v_ij * -logsigmoid(z_ij * (scale * l_i.r_j + bias)).

    z is +1 for a positive and -1 otherwise; m is 0 for what is ignored; n is the number of rows taking part, over all
    processes. v is w_i for a row's own pair and 1 for a negative; a positive beside the row's own has w_j where the
    rows agree in a field of the left side, w_i where in item_id or a field of the right side, the mean where in both.
    """

    needs_bias = True

    def __init__(
        self,
        weight_negatives: bool = False,  # a row's weight counts for its negatives too
        tile_size: int | None = None,  # rows and columns computed at once; null: 1024 on a CPU, 8192 on a GPU
    ) -> None:
        self.weight_negatives, self.tile_size = weight_negatives, checked_tile_size(tile_size)

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
        """This process's share, a scalar; its mean over processes is the loss (all ranks participate)."""
        return streamed(self._sweep, rows, logit_scale, logit_bias)

    def _sweep(self, matrix: LogitMatrix, scale: Tensor, bias: Tensor, wants_gradients: bool) -> Swept:
        """One sweep: the sigmoid of a tile's logits is what the gradients are made of."""
        loss, bias_gradient = torch.zeros_like(bias), torch.zeros_like(bias)
        left_gradient, right_gradient = torch.zeros_like(matrix.left), torch.zeros_like(matrix.right)
        for tile in matrix.tiles(self.tile_size):
            left, right = matrix.left[tile.rows], matrix.right[tile.columns]
            logits = torch.addmm(bias, left * scale, right.T)  # (rows, columns)
            loss += self._weighted(softplus, logits, matrix, tile).sum()
            if wants_gradients:
                slopes = self._weighted(torch.sigmoid, logits, matrix, tile, sign=-1)
                bias_gradient += slopes.sum()
                left_gradient[tile.rows].addmm_(slopes, right)
                right_gradient[tile.columns].addmm_(slopes.T, left)
        return Swept(loss.squeeze(), left_gradient, right_gradient, bias_gradient)

    def _weighted(
        self, function: Callable[[Tensor], Tensor], logits: Tensor, matrix: LogitMatrix, tile: Tile, sign: int = 1
    ) -> Tensor:
        """m v f(logit) of negatives and m v (sign) f(-logit) of positives: (rows, columns)."""
        values = function(logits)
        if self.weight_negatives:
            values.mul_(matrix.weight[tile.rows, None])
        if tile.ignored is not None:
            values.masked_fill_(tile.ignored, 0.0)
        if tile.positive is not None and tile.positive_weight is not None:
            values = torch.where(tile.positive, sign * tile.positive_weight * function(-logits), values)
        tile.own(values).copy_(sign * matrix.weight[tile.own_rows] * function(-tile.own(logits)))
        return values


def softplus(logits: Tensor) -> Tensor:
    """log(1 + exp(x)) = -logsigmoid(-x), to the last digit."""
    return functional.softplus(logits, threshold=LINEAR_FROM)

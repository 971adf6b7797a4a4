"""The softmax pair loss of CLIP, weighted by row as in GCL (arXiv 2404.08535), over the global batch."""

import torch
from torch import Tensor

from gcl.distributed import gather_with_grad, world_size
from gcl.losses.rows import PairRows


class SoftmaxLoss:
    """(1/2n) sum_i w_i (row_i + column_i), cross entropies of a row's own pair against its row and its column.

    What is ignored leaves the denominator; n is the number of rows taking part, over all processes. A bias cancels in a
    softmax: it gets a gradient of 0.
    """

    needs_bias = False

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
        """This process's share: its rows and its columns, times the number of processes.

        Returns:
            A scalar; its mean over processes is the loss (all ranks participate, in forward and in backward).
        """
        row = cross_entropy(logit_scale * rows.left @ gather_with_grad(rows.right).T, rows)
        column = cross_entropy(logit_scale * rows.right @ gather_with_grad(rows.left).T, rows)
        weighted = (rows.weight * (row + column)).masked_fill(~rows.takes_part, 0.0)
        return weighted.sum() * world_size() / (2 * rows.count) + 0.0 * logit_bias.sum()


def cross_entropy(logits: Tensor, rows: PairRows) -> Tensor:
    """-log softmax of each row's own column: logits (local rows, global columns) -> (local rows,)."""
    own = rows.own_columns
    denominator = torch.logsumexp(logits.masked_fill(~(rows.negatives | own), -torch.inf), dim=1)
    return denominator - logits[own]

"""The sigmoid pair loss of SigLIP (arXiv 2303.15343), over the global batch."""

from torch import Tensor
from torch.nn import functional

from gcl.distributed import gather_with_grad, world_size
from gcl.losses.rows import PairRows


class SigmoidLoss:
    """(1/n) sum_ij m_ij v_ij * -logsigmoid(z_ij * (scale * l_i.r_j + bias)).

    z is +1 for a row's own pair and -1 otherwise; v is the row's weight for its own pair and 1 for a negative; m is 0
    for what is ignored; n is the number of rows taking part, over all processes.
    """

    needs_bias = True

    def __call__(self, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
        """This process's share: its rows against everyone's columns, times the number of processes.

        Returns:
            A scalar; its mean over processes is the loss (all ranks participate, in forward and in backward).
        """
        right = gather_with_grad(rows.right)
        logits = logit_scale * rows.left @ right.T + logit_bias  # (local rows, global columns)
        loss = functional.softplus(logits)
        own = rows.own_columns  # (local rows, global columns) bool
        loss = loss.masked_fill(~rows.negatives, 0.0)
        positive = functional.softplus(-logits[own]) * rows.weight
        total = loss.sum() + positive.masked_fill(~rows.takes_part, 0.0).sum()
        return total * world_size() / rows.count

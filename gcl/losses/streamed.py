"""A pair loss whose gradients are computed in the forward pass, tile by tile: no batch x batch matrix is kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gcl.distributed import world_size
from gcl.losses.rows import PairRows
from gcl.losses.side import at_least_float32
from gcl.losses.tiles import LogitMatrix


@dataclass
class Swept:
    """What a sweep over the tiles found: this process's rows' part of the sum, before it is divided by n.

    The gradients (zeros where none are wanted) are by the sides times the logit scale, and by the logit bias.
    """

    loss: Tensor  # scalar
    left: Tensor  # (rows, dim)
    right: Tensor  # (columns, dim)
    bias: Tensor  # (1,)


# (the matrix, logit scale, logit bias, whether gradients are wanted) -> what was found
Sweep = Callable[[LogitMatrix, Tensor, Tensor, bool], Swept]


def streamed(sweep: Sweep, rows: PairRows, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """This process's share of a pair loss (all ranks participate, in forward only).

    The share is the local rows' part of the sum times (processes / n), so that the mean over processes is the loss,
    and gradients averaged over processes, as DDP and ZeRO do, are the gradients of the whole batch.

    Returns:
        A scalar, at least float32, with gradients of left, right, negatives, scale and bias.
    """
    sides = [None if side is None else at_least_float32(side) for side in (rows.left, rows.right, rows.negatives)]
    share: Tensor = Streamed.apply(sweep, rows, *sides, at_least_float32(logit_scale), at_least_float32(logit_bias))
    return share


class Streamed(torch.autograd.Function):
    """Loss and gradients in one pass forward; the pass backward only multiplies."""

    @staticmethod
    def forward(
        ctx: Any,
        sweep: Sweep,
        rows: PairRows,
        left: Tensor,
        right: Tensor,
        negatives: Tensor | None,
        logit_scale: Tensor,
        logit_bias: Tensor,
    ) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)
        with torch.autocast(left.device.type, enabled=False):
            matrix = LogitMatrix(replace(rows, left=left, right=right, negatives=negatives))
            swept = sweep(matrix, logit_scale, logit_bias, wants_gradients)
            factor = world_size() / max(1, matrix.count)
            if wants_gradients:
                # The logit is <scale * left, right>: the scale's gradient is the left's own, along the left.
                scale_gradient = torch.linalg.vecdot(swept.left, matrix.left).sum().reshape(1) * factor
                by_side = logit_scale * factor
                sides = matrix.own_gradients(swept.left.mul_(by_side), swept.right.mul_(by_side))
                ctx.save_for_backward(*sides, scale_gradient, swept.bias * factor)
        return swept.loss * factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)

"""What is measured: the streamed loss, open_clip's ring, a plain all-gather and the products none can do without."""

from typing import Any

import torch
from open_clip.loss import SigLipLoss
from torch import Tensor
from torch.nn import functional

from gcl.distributed import gather, rank, sum_of_own_rows, world_size
from gcl.losses.rows import PairRows
from gcl.losses.sigmoid import SigmoidLoss

DIM, SCALE, BIAS = 768, 10.0, -10.0  # scale and bias where SigLIP starts
FLOOR_TILE = 8192


class GatherWithGrad(torch.autograd.Function):
    """Everyone's rows; each gets back the sum of its gradients (all ranks participate, in forward and in backward)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_of_own_rows(gradient)


def streamed(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    takes_part = torch.ones(len(left), dtype=torch.bool, device=left.device)
    return SigmoidLoss()(PairRows(left, right, takes_part, torch.ones(len(left), device=left.device)), scale, bias)


def open_clip_ring(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    loss: Tensor = SigLipLoss(rank=rank(), world_size=world_size(), dist_impl="bidir")(left, right, scale, bias)
    return loss


def plain_gather(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    columns: Tensor = GatherWithGrad.apply(right)
    logits = scale * left @ columns.T + bias  # (local rows, global columns)
    signs = torch.full_like(logits, -1.0)
    signs.diagonal(rank() * len(left)).fill_(1.0)
    return -functional.logsigmoid(signs * logits).sum() / len(left)


OURS, RING, GATHER = "ours", "open_clip ring", "plain gather"
LOSSES = {RING: open_clip_ring, OURS: streamed, GATHER: plain_gather}
FLOORS = {"float32 products": torch.float32, "bf16 products": torch.bfloat16}  # on a GPU


def matrix_products(left: Tensor, right: Tensor, dtype: torch.dtype) -> None:
    """The least that loss and gradients of one process need: three products over every tile."""
    left, right = left.detach().to(dtype), right.detach().to(dtype)
    left_gradient, right_gradient = torch.zeros_like(left), torch.zeros_like(right)
    blocks = [slice(start, start + FLOOR_TILE) for start in range(0, len(left), FLOOR_TILE)]
    for rows in blocks:
        for columns in blocks:
            logits = left[rows] @ right[columns].T
            left_gradient[rows].addmm_(logits, right[columns])
            right_gradient[columns].addmm_(logits.T, left[rows])


def build_inputs(rows: int, device: str) -> dict[str, Tensor]:
    """This process's pairs, their cosine about a half; on a GPU with values that a tower in bf16 gives."""
    generator = torch.Generator(device).manual_seed(rank())
    left, noise = torch.randn(2, rows, DIM, generator=generator, device=device)
    left = functional.normalize(left, dim=-1)
    right = functional.normalize(left + 1.7 * functional.normalize(noise, dim=-1), dim=-1)
    if device == "cuda":
        left, right = left.bfloat16().float(), right.bfloat16().float()
    scale, bias = torch.tensor([SCALE], device=device), torch.tensor([BIAS], device=device)
    inputs = {"left": left, "right": right, "scale": scale, "bias": bias}
    return {name: value.requires_grad_() for name, value in inputs.items()}


def run_method(method: str, inputs: dict[str, Tensor]) -> Tensor:
    """Forward and backward (all ranks participate): the loss, and gradients in the inputs."""
    if method in FLOORS:
        matrix_products(inputs["left"], inputs["right"], FLOORS[method])
        return torch.zeros(())
    loss = LOSSES[method](*inputs.values())
    loss.backward()
    return loss.detach()

"""A logit bias for a start that was trained without one, so that a sigmoid loss begins where the softmax left off."""

import math
import sys

import torch
from torch import Tensor

from gcl.data.loader import StepBatches
from gcl.distributed import all_sum, rank
from gcl.losses.objective import Objective
from gcl.losses.pair import pair_rows
from gcl.models.dual_encoder import DualEncoder

MAX_ROWS = 256  # rows of each process's first batch that are measured


def fit_logit_bias(
    model: DualEncoder,
    loss_needs_bias: bool,
    objective: Objective,
    batches: StepBatches,
    device: torch.device,
    resumes: bool,
) -> None:
    """Add a bias where the loss needs one, and say so; say too when a start has one that the loss does not use.

    (All ranks participate where a bias is measured: not where a checkpoint holds it.)
    """
    if loss_needs_bias and not model.has_logit_bias:
        bias = 0.0 if resumes else start_bias(model.to(device), objective, batches, device)
        model.add_logit_bias(bias)
        if not resumes:
            say(f"{model.name} has no logit bias, which this loss needs: {bias:.2f} begins where its softmax left off")
    elif model.has_logit_bias and not loss_needs_bias:
        say(f"{model.name} has a logit bias, which this loss has no use for: it stays as it is")


@torch.inference_mode()
def start_bias(model: DualEncoder, objective: Objective, batches: StepBatches, device: torch.device) -> float:
    """- mean_i log sum_{j != i} exp(scale * l_i.r_j) over the first batch (all ranks participate).

    sigmoid(scale * l_i.r_i + bias) is then, on average over rows, the softmax probability of a row's own pair among
    all. Some rows of each process stand for the batch: their sum is taken times the negatives that they stand for.
    """
    batch = batches.batch(0, MAX_ROWS).to(device)
    images, texts = (
        {name: values for name, values in of_kind.items() if name in objective.fields}
        for of_kind in (batch.images, batch.texts)
    )
    fields, scale, _ = model.eval()(images, texts)
    log_sums = [
        negatives_log_sum(rows.left[rows.takes_part], rows.right[rows.takes_part], scale)
        for rows in (pair_rows(pair, fields, batch.present, batch.identities, batch.score) for pair in objective.pairs)
    ]
    found = torch.cat(log_sums)
    total, count = all_sum(torch.stack([found.sum(), found.new_tensor(len(found))])).tolist()
    negatives = batches.order.batch_size - 1
    return -(total / max(count, 1) + math.log(max(negatives, 1)))


def negatives_log_sum(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """For each row the log of the mean of exp(logit) over its negatives: (rows,), empty where there are none."""
    if len(left) < 2:
        return left.new_empty(0)
    logits = (left * scale @ right.T).fill_diagonal_(-torch.inf)
    return logits.logsumexp(1) - math.log(len(left) - 1)


def say(message: str) -> None:
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)

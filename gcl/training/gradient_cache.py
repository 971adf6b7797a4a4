"""The gradient cache: contrastive batches as large as wanted in the memory of a micro-batch (arXiv 2101.06983).

The towers encode one micro-batch after another without gradients; the loss and its gradients by the embeddings are
computed on the whole batch; then each micro-batch is encoded again, and its embeddings meet their gradients. What the
parameters get is the gradient of the whole batch, exactly, also under DDP and DeepSpeed.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gcl.data.batch import Batch
from gcl.losses.objective import Loss


@dataclass
class Step:
    """One step's forward pass, and what its backward pass needs."""

    micro_batches: list[Batch]
    seed: list[int]  # of dropout and the like; a micro-batch's number is added to it, the same in both passes
    embeddings: Any  # (fields, logit_scale, logit_bias) of the whole batch; leaves where there are micro-batches
    share: Tensor  # this process's share of the loss


class GradientCache:
    """A step's loss, and its gradients in the model's parameters.

    Args:
        accelerator: runs the backward passes.
        model: the prepared model: (images, texts) -> (fields, logit_scale, logit_bias).
        loss: the objective.
        micro_batch_size: rows of this process that are encoded at once; None: all.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, loss: Loss, micro_batch_size: int | None) -> None:
        self.accelerator, self.model, self.loss, self.micro_batch_size = accelerator, model, loss, micro_batch_size

    def forward(self, batch: Batch, seed: list[int]) -> Step:
        """The loss of the batch (all ranks participate)."""
        micro_batches = batch.split(self.micro_batch_size or len(batch))
        if len(micro_batches) == 1:
            embeddings = self._encode(batch, seed, 0)
        else:
            with torch.no_grad():
                parts = [self._encode(part, seed, number) for number, part in enumerate(micro_batches)]
            embeddings = joined(parts)
        fields, logit_scale, logit_bias = embeddings
        share = self.loss(fields, batch.present, batch.identities, batch.score, logit_scale, logit_bias)
        return Step(micro_batches, seed, embeddings, share)

    def backward(self, step: Step) -> None:
        """Give every parameter its gradient (all ranks participate); under DeepSpeed this takes the step too."""
        if len(step.micro_batches) == 1:
            self.accelerator.backward(step.share)
            return
        step.share.backward()
        last = len(step.micro_batches) - 1
        for number in range(len(step.micro_batches)):
            # Under DDP the last one averages over processes, under DeepSpeed it clips and steps as well.
            self.accelerator.sync_gradients = number == last
            with nullcontext() if number == last else self.accelerator.no_sync(self.model):
                self.accelerator.backward(self._surrogate(step, number, is_last=number == last))

    def _encode(self, micro_batch: Batch, seed: list[int], number: int) -> Any:
        torch.manual_seed(int(np.random.SeedSequence([*seed, number]).generate_state(1, np.uint64)[0]))
        return self.model(micro_batch.images, micro_batch.texts)

    def _surrogate(self, step: Step, number: int, is_last: bool) -> Tensor:
        """<embeddings of one micro-batch, the loss's gradients by them>.

        Scale and bias enter in every micro-batch, times 0 but in the last: ZeRO wants a gradient of every parameter
        in each backward pass.
        """
        start = sum(len(part) for part in step.micro_batches[:number])
        rows = slice(start, start + len(step.micro_batches[number]))
        fields, logit_scale, logit_bias = self._encode(step.micro_batches[number], step.seed, number)
        cached_fields, *cached = step.embeddings
        products = [torch.sum(fields[name] * gradient(cached_fields[name])[rows]) for name in fields]
        products += [
            float(is_last) * torch.sum(mine * gradient(leaf))
            for mine, leaf in zip((logit_scale, logit_bias), cached, strict=True)
        ]
        return torch.stack(products).sum()


def joined(parts: list[Any]) -> Any:
    """The micro-batches' embeddings as one batch's, as leaves that collect their gradients."""
    fields = {name: torch.cat([part.fields[name] for part in parts]) for name in parts[0].fields}
    embeddings = parts[0]._replace(fields=fields)
    for leaf in (*fields.values(), embeddings.logit_scale, embeddings.logit_bias):
        leaf.requires_grad_()
    return embeddings


def gradient(leaf: Tensor) -> Tensor:
    """A field that no pair's row has gets none."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

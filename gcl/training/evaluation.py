"""The evaluations of a run: every task and the validation loss, from one embedding of the validation split."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from gcl.data.batch import identity
from gcl.data.record import Record
from gcl.distributed import all_sum, rank, world_size
from gcl.errors import UserError
from gcl.losses.objective import Loss
from gcl.retrieval.embed import Corpus, RowEmbeddings
from gcl.retrieval.evaluate import evaluate_task
from gcl.retrieval.tasks import RetrievalTask

VALIDATION_LOSS = "validation_loss"


class Evaluation:
    """Measures a model on the rows of one split.

    Args:
        corpus: the rows; its builder makes every field that the tasks and the objective name.
        tasks: name -> retrieval task.
        loss: the objective's, measured on these rows.
        identity_fields: what it compares between rows.
        batch_size: global, as in training: the loss depends on it.
    """

    def __init__(
        self, corpus: Corpus, tasks: dict[str, RetrievalTask], loss: Loss, identity_fields: list[str], batch_size: int
    ) -> None:
        self.corpus, self.tasks, self.loss, self.identity_fields = corpus, tasks, loss, identity_fields
        self.batch_size = batch_size

    def run(self, model: nn.Module, accelerator: Accelerator) -> dict[str, dict[str, Any]]:
        """name -> {"metrics": ..., "examples": ...} (all ranks participate; every process gets the result)."""
        embeddings = self.corpus.embed(model, accelerator)
        results: dict[str, dict[str, Any]] = {}
        for name, task in self.tasks.items():
            result = evaluate_task(task, embeddings, self.corpus.rows)
            results[name] = {"metrics": result.metrics, "examples": {"examples": result.examples}}
        results[VALIDATION_LOSS] = {"metrics": self._validation_loss(embeddings)}
        return results

    @torch.inference_mode()
    def _validation_loss(self, embeddings: RowEmbeddings) -> dict[str, float | int]:
        """The objective's mean over whole batches in manifest order, without explicit negatives.

        (All ranks participate.)
        """
        rows = len(self.corpus.rows)
        size = min(self.batch_size, rows) // world_size() * world_size()
        if size == 0:
            raise UserError(f"{rows} rows to evaluate are fewer than {world_size()} processes; prepare more")
        device = embeddings.logit_scale.device
        records = [Record(dict(row), {}) for row in self.corpus.rows]
        identities = {
            name: identity(records, name).to(device)
            for name in self.identity_fields
            if name not in self.corpus.builder.image_fields
        }
        score = self.corpus.builder.scores.read(records)[0].to(device)
        losses = []
        for start in range(0, rows - size + 1, size):
            share = slice(start + rank() * size // world_size(), start + (rank() + 1) * size // world_size())
            local = self.loss(
                {name: value[share] for name, value in embeddings.fields.items()},
                {name: value[share] for name, value in embeddings.present.items()},
                {name: value[share] for name, value in identities.items()},
                score[share],
                embeddings.logit_scale,
                embeddings.logit_bias,
            )
            losses.append(float(all_sum(local)) / world_size())
        return {"loss": sum(losses) / len(losses), "rows": size * len(losses)}

"""The evaluations of a run: every task and the validation loss, from one embedding of the validation split."""

from dataclasses import dataclass

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import nn

from gcl.data.batch import Scores, identity
from gcl.data.manifest import IMAGE
from gcl.data.shards import ShardReader
from gcl.distributed import all_sum, rank, world_size
from gcl.encoders.open_clip_encoder import OpenClipEncoder
from gcl.errors import UserError
from gcl.losses.objective import Loss
from gcl.models.dual_encoder import DualEncoder
from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.embeddings.joined_reader import described
from gcl.retrieval.embeddings.row_embeddings import RowEmbeddings, embed_rows
from gcl.retrieval.embeddings.rows import Rows, load_rows
from gcl.retrieval.evaluate import evaluate_task
from gcl.retrieval.result import Result
from gcl.retrieval.tasks import RetrievalTask

VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True)
class ValidationLoss:
    """The objective, as it is measured on the validation split."""

    loss: Loss
    fields: list[str]  # that it embeds
    identity_fields: list[str]  # that it compares between rows
    scores: Scores
    batch_size: int  # global, as in training: the loss depends on it


class Evaluation:
    """Measures a model on the rows of one split.

    Args:
        encoder: the model before it was prepared for several processes.
        reader: the split.
        batch_size: rows encoded at once, per process.
        workers: worker processes that decode images, per process.
        tasks: name -> retrieval task.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        reader: ShardReader,
        batch_size: int,
        workers: int,
        tasks: dict[str, RetrievalTask],
        validation_loss: ValidationLoss,
    ) -> None:
        self.encoder, self.reader, self.batch_size, self.workers = encoder, reader, batch_size, workers
        self.tasks, self.validation_loss = tasks, validation_loss
        self.rows: Rows = load_rows(reader)

    def run(self, model: nn.Module, accelerator: Accelerator) -> dict[str, Result]:
        """Each task's result and the loss (all ranks participate; every process gets them).

        Args:
            model: the encoder as the accelerator prepared it.
        """
        model.eval()
        encoder = OpenClipEncoder(self.encoder, self.encoder.name, model)
        embedder = Embedder(
            encoder, self.reader, self.rows, accelerator, self.batch_size, self.workers, None, shows_progress=False
        )
        asked = [name for task in self.tasks.values() for name in task.fields]
        with torch.inference_mode():
            embeddings = embed_rows(embedder, self.validation_loss.fields + asked)
            facts = {"model": self.encoder.name, "data": described(self.reader)}
            results = {
                name: evaluate_task(
                    task, embeddings, self.rows, self.reader.kinds, {**facts, "task": name}, accelerator.device
                )
                for name, task in self.tasks.items()
            }
            results[VALIDATION_LOSS] = Result({}, self._validation_loss(embeddings, model), pa.table({}))
        return results

    def _validation_loss(self, embeddings: RowEmbeddings, model: nn.Module) -> dict[str, float | int]:
        """The objective's mean over whole batches in manifest order, without explicit negatives.

        (All ranks participate.)
        """
        measured, rows = self.validation_loss, len(self.rows)
        size = min(measured.batch_size, rows) // world_size() * world_size()
        if size == 0:
            raise UserError(f"{rows} rows to evaluate are fewer than {world_size()} processes; prepare more")
        _, logit_scale, logit_bias = model({}, {})
        records, present = self.rows.records(), embeddings.present
        identities = {
            name: identity(records, name).to(logit_scale.device)
            for name in measured.identity_fields
            if self.reader.kinds.get(name) != IMAGE
        }
        score = measured.scores.read(records)[0].to(logit_scale.device)
        losses = []
        for start in range(0, rows - size + 1, size):
            share = slice(start + rank() * size // world_size(), start + (rank() + 1) * size // world_size())
            local = measured.loss(
                {name: embeddings.fields[name][share] for name in measured.fields},
                {name: present[name][share] for name in measured.fields},
                {name: value[share] for name, value in identities.items()},
                score[share],
                logit_scale,
                logit_bias,
            )
            losses.append(float(all_sum(local)) / world_size())
        return {"loss": sum(losses) / len(losses), "rows": size * len(losses)}

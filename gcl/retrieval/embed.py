"""Rows to embeddings, on all processes: every image once, every distinct text once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gcl.data.batch import Batch, BatchBuilder
from gcl.data.shards import ShardReader
from gcl.distributed import gather, rank, world_size


@dataclass
class RowEmbeddings:
    """Every row of a split, embedded; the same on every process."""

    fields: dict[str, Tensor]  # field -> (rows, dim) float32
    present: dict[str, Tensor]  # field -> (rows,) bool
    logit_scale: Tensor  # (1,)
    logit_bias: Tensor  # (1,)


class Corpus:
    """The rows of a split as evaluation reads them: each exactly once, in manifest order.

    Args:
        reader: the split.
        builder: makes batches of the fields that the tasks name.
        batch_size: rows encoded at once, per process.
        workers: worker processes that decode images, per process.
    """

    def __init__(self, reader: ShardReader, builder: BatchBuilder, batch_size: int, workers: int) -> None:
        self.reader, self.builder, self.batch_size, self.workers = reader, builder, batch_size, workers
        self.rows = [{name: str(value).strip() for name, value in record.fields.items()} for record in reader]

    def embed(self, model: nn.Module, accelerator: Accelerator) -> RowEmbeddings:
        """Encode every field of every row (all ranks participate)."""
        model.eval()
        fields: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        with torch.inference_mode(), self._progress(accelerator) as progress:
            if self.builder.image_fields:
                fields, present = self._embed_images(model, accelerator, progress)
            for name in self.builder.text_fields:
                values = [row.get(name, "") for row in self.rows]
                fields[name] = self._embed_texts(model, accelerator, values, progress, name)
                present[name] = torch.tensor([bool(value) for value in values], device=accelerator.device)
            _, scale, bias = model({}, {})
        return RowEmbeddings(fields, present, scale, bias)

    def _embed_images(
        self, model: nn.Module, accelerator: Accelerator, progress: Progress
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        numbers = own_share(len(self.rows))
        batches = DataLoader(RowBatches(self, numbers), batch_size=None, num_workers=self.workers)
        embedded: list[dict[str, Tensor]] = []
        present: list[dict[str, Tensor]] = []
        for batch in progress.track(batches, total=-(-len(numbers) // self.batch_size), description="embed images"):
            embedded.append(model(batch.to(accelerator.device).images, {}).fields)
            present.append(batch.present)
        names = self.builder.image_fields
        return (
            {name: self._gathered([part[name] for part in embedded]) for name in names},
            {
                name: self._gathered([part[name].to(accelerator.device, torch.uint8) for part in present]).bool()
                for name in names
            },
        )

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        return gather(torch.cat(parts))[: len(self.rows)]

    def _embed_texts(
        self, model: nn.Module, accelerator: Accelerator, values: list[str], progress: Progress, name: str
    ) -> Tensor:
        distinct, inverse = np.unique(values, return_inverse=True)
        numbers = own_share(len(distinct))
        blocks = [numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size)]
        embedded = []
        for block in progress.track(blocks, description=f"embed {name}"):
            tokens = self.builder.tokenizer([str(distinct[number]) for number in block])
            embedded.append(model({}, {name: tokens.to(accelerator.device)}).fields[name])
        return gather(torch.cat(embedded))[torch.from_numpy(inverse).to(accelerator.device)]

    def _progress(self, accelerator: Accelerator) -> Progress:
        console = Console(stderr=True)
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (accelerator.is_main_process and console.is_terminal),
        )


def own_share(count: int) -> np.ndarray:
    """The contiguous numbers below `count` that this process encodes.

    The last ones repeat, so that all shares are equal: a sharded model needs as many forwards on every process.
    """
    share = -(-count // world_size())
    return np.arange(rank() * share, (rank() + 1) * share).clip(max=count - 1)


class RowBatches(Dataset[Batch]):
    """Batches of images for given rows."""

    def __init__(self, corpus: Corpus, numbers: np.ndarray) -> None:
        self.corpus, self.numbers = corpus, numbers

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.corpus.batch_size)

    def __getitem__(self, index: int) -> Batch:
        start = index * self.corpus.batch_size
        if start >= len(self.numbers):
            raise IndexError(index)
        numbers = self.numbers[start : start + self.corpus.batch_size].tolist()
        builder = self.corpus.builder
        images_only = BatchBuilder(builder.image_fields, [], [], builder.image_reader, builder.tokenizer)
        return images_only.build([self.corpus.reader[number] for number in numbers], numbers)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

"""Rows to embeddings, on all processes: every image once, every distinct text once."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gcl.data.batch import Batch, BatchBuilder
from gcl.data.shards import ShardReader
from gcl.distributed import all_sum, gather, rank, world_size
from gcl.errors import UserError
from gcl.progress import progress_bar

MAX_UNDECODABLE_SHARE = 0.05  # of the rows; more is no measurement


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
        shows_progress: a bar in a terminal; not where another one is shown already.
    """

    def __init__(
        self, reader: ShardReader, builder: BatchBuilder, batch_size: int, workers: int, shows_progress: bool
    ) -> None:
        self.reader, self.builder, self.batch_size, self.workers = reader, builder, batch_size, workers
        self.shows_progress = shows_progress
        self.rows = [{name: str(value).strip() for name, value in record.fields.items()} for record in reader]

    def embed(self, model: nn.Module, accelerator: Accelerator) -> RowEmbeddings:
        """Encode every field of every row (all ranks participate)."""
        model.eval()
        fields: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        with torch.inference_mode(), progress_bar(self.shows_progress and accelerator.is_main_process) as progress:
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
        undecodable = torch.zeros((), device=accelerator.device)
        for batch in progress.track(batches, total=-(-len(numbers) // self.batch_size), description="embed images"):
            embedded.append(model(batch.to(accelerator.device).images, {}).fields)
            present.append(batch.present)
            undecodable += batch.undecodable
        check_undecodable(int(all_sum(undecodable)), len(self.rows))
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
        distinct = list(dict.fromkeys(values))
        number_of = {value: number for number, value in enumerate(distinct)}
        numbers = own_share(len(distinct))
        blocks = [numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size)]
        embedded = []
        for block in progress.track(blocks, description=f"embed {name}"):
            tokens = self.builder.tokenizer([distinct[number] for number in block])
            embedded.append(model({}, {name: tokens.to(accelerator.device)}).fields[name])
        return gather(torch.cat(embedded))[[number_of[value] for value in values]]


def check_undecodable(undecodable: int, rows: int) -> None:
    """Say how many images could not be decoded, and refuse to measure when they are too many."""
    if undecodable > MAX_UNDECODABLE_SHARE * rows:
        raise UserError(
            f"{undecodable} images of {rows} rows could not be decoded; copy the shards again or run gcl prepare again"
        )
    if undecodable and rank() == 0:
        Console(stderr=True).print(f"{undecodable} images of {rows} rows could not be decoded; none finds them")


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
        size, builder = self.corpus.batch_size, self.corpus.builder
        numbers = self.numbers[index * size : (index + 1) * size].tolist()
        images_only = BatchBuilder(builder.image_fields, [], [], builder.image_reader, builder.tokenizer)
        return images_only.build([self.corpus.reader[number] for number in numbers])

"""Batches of a training run, step by step, read ahead by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from gcl.data.augment import Augmentation
from gcl.data.batch import Batch, BatchBuilder
from gcl.data.negatives import MinedNegatives
from gcl.data.order import SampleOrder, default_lanes
from gcl.data.record import Record, is_score
from gcl.data.shards import ShardReader
from gcl.errors import UserError

OWN_NEGATIVES = "rows"  # data.negatives: those that rows bring


@dataclass
class DataSettings:
    """What a run reads, and how."""

    path: str  # folder written by gcl prepare
    train_split: str = "train"  # split that is trained on
    validation_split: str = "validation"  # split that is evaluated during the run
    workers: int = 2  # worker processes that read, decode and tokenize, per process
    lanes: int | None = None  # places in the data that a batch reads from; null: gcd(batch_size, 64)
    window: int = 4096  # samples of a lane that are shuffled together
    augmentation: Augmentation = field(default_factory=Augmentation)  # of training images
    negatives: str | None = None  # folder written by gcl mine, or "rows": those that rows bring; null: in-batch alone
    default_score: float | None = None  # score of a row whose own is missing or bad; null: such a row stops the run

    def __post_init__(self) -> None:
        if self.default_score is not None and not is_score(self.default_score):
            raise UserError(f"data.default_score={self.default_score} must be a number from 0 up")


def with_whole_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the data that mean the same from any folder."""
    negatives = settings["negatives"]
    return {
        **settings,
        "path": str(Path(settings["path"]).expanduser().resolve()),
        "negatives": negatives if negatives in (None, OWN_NEGATIVES) else str(Path(negatives).expanduser().resolve()),
    }


def sample_order(
    reader: ShardReader, settings: DataSettings, batch_size: int, seed: int, processes: int
) -> SampleOrder:
    """The order in which a run reads `reader`, checked against the number of processes."""
    sizes = tuple(shard.samples for shard in reader.shards)
    order = SampleOrder(sizes, batch_size, settings.lanes or default_lanes(batch_size), settings.window, seed)
    order.check_processes(processes)
    return order


def build_negatives(settings: DataSettings, reader: ShardReader) -> MinedNegatives | None:
    """The mined negatives of `reader`, where the settings name a folder of them."""
    if settings.negatives in (None, OWN_NEGATIVES):
        return None
    return MinedNegatives(settings.negatives, reader)


class StepBatches(Dataset[Batch]):
    """One process's batch of each step, by number: a pure function of (seed, step, process)."""

    def __init__(
        self,
        reader: ShardReader,
        order: SampleOrder,
        builder: BatchBuilder,
        workers: int,
        process: int,
        processes: int,
        negatives: MinedNegatives | None = None,
    ) -> None:
        self.reader, self.order, self.builder, self.workers = reader, order, builder, workers
        self.process, self.processes, self.negatives = process, processes, negatives

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def batch(self, step: int, rows: int | None = None) -> Batch:
        """This process's batch of a step, or its first rows."""
        samples = self.order.local_batch(step, self.process, self.processes).tolist()[:rows]
        epoch = self.order.epoch(step)
        randoms = [np.random.default_rng([self.order.seed, epoch, sample]) for sample in samples]
        return self.builder.build([self._record(sample, epoch) for sample in samples], randoms)

    def _record(self, sample: int, epoch: int) -> Record:
        record = self.reader[sample]
        if self.negatives is None:
            return record
        # Apart from the augmentation's, so that a row's own image is the same with and without a negative.
        return self.negatives.add(record, sample, np.random.default_rng([self.order.seed, epoch, sample, 1]))

    def from_step(self, start_step: int, max_steps: int) -> Iterator[Batch]:
        """The batches of the steps from `start_step` up to `max_steps`, read ahead by the workers."""
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=range(start_step, max_steps),
                num_workers=self.workers,
                prefetch_factor=2 if self.workers else None,
            )
        )

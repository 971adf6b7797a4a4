"""How many samples per second one worker process makes ready for training."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from gcl.data.augment import Augmentation
from gcl.data.batch import Batch, BatchBuilder
from gcl.data.images import ImageReader
from gcl.data.record import Record
from gcl.doctor.model import Demands
from gcl.doctor.rows import Rows

SECONDS = 3.0  # measured, after the worker has started
BATCH = 32  # rows that are read one after the other, and made one batch


@dataclass(frozen=True)
class Throughput:
    """What one worker does, and what is planned."""

    samples_per_second: float  # of one worker
    planned: float  # samples per second, of all workers
    cores: int  # of this machine

    @property
    def workers(self) -> int:
        """How many workers the plan needs."""
        return int(-(-self.planned // self.samples_per_second))


class WorkOfOne(IterableDataset[Batch | None]):
    """Batches without end from random places, as a training worker makes them."""

    def __init__(self, rows: Rows, builder: BatchBuilder, seed: int) -> None:
        self.rows, self.builder, self.seed = rows, builder, seed

    def __iter__(self) -> Iterator[Batch | None]:
        random = np.random.default_rng(self.seed)
        for _ in range(1_000_000):
            start = int(random.integers(max(1, len(self.rows) - BATCH)))
            read = [self.rows[number] for number in range(start, min(start + BATCH, len(self.rows)))]
            records = [record for record in read if isinstance(record, Record)]
            yield self.builder.build(records, random.spawn(len(records))) if records else None


def measure_throughput(
    rows: Rows, demands: Demands, augmentation: Augmentation, planned: float, seed: int, seconds: float = SECONDS
) -> Throughput | None:
    """Let one worker decode, augment and tokenize at full speed; None where it made nothing."""
    image = demands.image
    reader = ImageReader(image.size, image.interpolation, image.resize_mode, augmentation)
    texts = [name for name in rows.text_fields if name in ("title", "query") and demands.tokenizer]
    builder = BatchBuilder(rows.image_fields, texts, [], reader, demands.tokenizer or no_tokens)
    batches = iter(DataLoader(WorkOfOne(rows, builder, seed), batch_size=None, num_workers=1))
    try:
        next(batches)
        samples, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            samples += len(next(batches) or [])
    except RuntimeError:  # the worker died
        return None
    finally:
        del batches
    return Throughput(samples / passed, planned, len(os.sched_getaffinity(0))) if samples else None


def no_tokens(texts: list[str]) -> Tensor:
    """Never called: without a model no text is tokenized."""
    raise NotImplementedError

"""Batches of a training run, step by step, read ahead by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from gcl.data.augment import Augmentation
from gcl.data.batch import Batch, BatchBuilder
from gcl.data.mixture import Draw, Mixture
from gcl.data.negatives import MinedNegatives
from gcl.data.order import SampleOrder, default_lanes
from gcl.data.record import Record, is_score
from gcl.data.shards import ShardReader
from gcl.data.storage.folders import CacheSettings, is_remote
from gcl.data.storage.object_store import without_secrets
from gcl.data.workers import told_of_workers
from gcl.errors import UserError

OWN_NEGATIVES = "rows"  # data.negatives: those that rows bring


@dataclass
class Portion:
    """A further data set to train on."""

    path: str  # folder written by gcl prepare
    weight: float  # places in a batch, relative to data.path, which has weight 1
    split: str = "train"  # of its splits


@dataclass
class DataSettings:
    """What a run reads, and how."""

    path: str  # folder written by gcl prepare, or its address: s3://, gs://, hf://, https://
    train_split: str = "train"  # split that is trained on
    validation_split: str = "validation"  # split that is evaluated during the run
    mixture: list[Portion] = field(default_factory=list)  # trained on as well, such as [{path: DIR, weight: 0.5}]
    workers: int = 2  # worker processes that read, decode and tokenize, per process
    lanes: int | None = None  # places in the data that a batch reads from; null: gcd(batch_size, 64)
    window: int = 4096  # samples of a lane that are shuffled together, at most
    window_megabytes: float = 16.0  # MB of a lane's window, at most: remote shards are read a window at a time
    cache: CacheSettings = field(default_factory=CacheSettings)  # of remote shards, on this machine's disk
    augmentation: Augmentation = field(default_factory=Augmentation)  # of training images
    negatives: str | None = None  # folder written by gcl mine, or "rows": those that rows bring; null: in-batch alone
    default_score: float | None = None  # score of a row whose own is missing or bad; null: such a row stops the run

    def __post_init__(self) -> None:
        if self.default_score is not None and not is_score(self.default_score):
            raise UserError(f"data.default_score={self.default_score} must be a number from 0 up")
        if self.window_megabytes <= 0:
            raise UserError(f"data.window_megabytes={self.window_megabytes} must be above 0")


def with_whole_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the data that mean the same from any folder.

    Raises:
        UserError: an address that carries a secret.
    """
    negatives, cache = settings["negatives"], settings["cache"]
    return {
        **settings,
        "path": whole_path(settings["path"]),
        "mixture": [{**portion, "path": whole_path(portion["path"])} for portion in settings["mixture"]],
        "cache": {**cache, "folder": cache["folder"] and whole_path(cache["folder"])},
        "negatives": negatives if negatives in (None, OWN_NEGATIVES) else whole_path(negatives),
    }


def whole_path(path: str) -> str:
    if is_remote(path) and ("?" in path or "@" in path.partition("://")[2].partition("/")[0]):
        raise UserError(
            f"{without_secrets(path)} was given with a signature or a password, which a run would write down with its "
            "settings; give the address without, and credentials through the environment"
        )
    return path if is_remote(path) else str(Path(path).expanduser().resolve())


def build_readers(settings: DataSettings) -> list[ShardReader]:
    """What is trained on: the main data set, then those of the mixture.

    Raises:
        UserError: one cannot be read, or a field is an image in one and text in another.
    """
    readers = [ShardReader(settings.path, settings.train_split, settings.cache)]
    for portion in settings.mixture:
        reader = ShardReader(portion.path, portion.split, settings.cache)
        for name, kind in reader.kinds.items():
            if readers[0].kinds.setdefault(name, kind) != kind:
                raise UserError(
                    f"field {name!r} is {kind} in {portion.path} and {readers[0].kinds[name]} in the data before; "
                    "prepare one of them again with another name for it"
                )
        readers.append(reader)
    return readers


def build_mixture(
    readers: list[ShardReader], settings: DataSettings, batch_size: int, seed: int, processes: int
) -> Mixture:
    """The order in which a run reads `readers`, checked against the number of processes."""
    lanes = settings.lanes or default_lanes(batch_size)
    orders = []
    for number, reader in enumerate(readers):
        window = min(settings.window, max(1, int(settings.window_megabytes * 1e6 / reader.bytes_per_sample)))
        sizes = tuple(shard.samples for shard in reader.shards)
        orders.append(SampleOrder(sizes, batch_size, lanes, window, seed_of(seed, number)))
    check_cache(readers, orders, settings)
    orders[0].check_processes(processes)
    return Mixture(tuple(orders), (1.0, *(portion.weight for portion in settings.mixture)))


def check_cache(readers: list[ShardReader], orders: list[SampleOrder], settings: DataSettings) -> None:
    """Refuse a cache from which remote shards' blocks would go before they are used."""
    remote = [(reader, order) for reader, order in zip(readers, orders, strict=True) if reader.is_remote]
    needed = sum(2 * order.lanes * order.window * reader.bytes_per_sample for reader, order in remote) / 1e9
    if needed > settings.cache.gigabytes:
        raise UserError(
            f"data.cache.gigabytes={settings.cache.gigabytes} is less than two windows of every lane take, "
            f"{needed:.1f} GB; raise it, or lower data.window_megabytes"
        )


def seed_of(seed: int, dataset: int) -> int:
    """The seed of a data set's order: the run's own for the first, so that the others do not change it."""
    return seed if dataset == 0 else int(np.random.SeedSequence([seed, dataset]).generate_state(1, np.uint64)[0])


def build_negatives(settings: DataSettings, reader: ShardReader) -> MinedNegatives | None:
    """The mined negatives of `reader`, where the settings name a folder of them."""
    if settings.negatives in (None, OWN_NEGATIVES):
        return None
    return MinedNegatives(settings.negatives, reader)


class StepBatches(Dataset[Batch]):
    """One process's batch of each step, by number: a pure function of (seed, step, process).

    Args:
        readers: the data sets of `order`.
        negatives: of the first of them.
    """

    def __init__(
        self,
        readers: list[ShardReader],
        order: Mixture,
        builder: BatchBuilder,
        workers: int,
        process: int,
        processes: int,
        negatives: MinedNegatives | None = None,
    ) -> None:
        self.readers, self.order, self.builder, self.workers = readers, order, builder, workers
        self.process, self.processes, self.negatives = process, processes, negatives
        self._ahead: dict[tuple[int, int], tuple[int, int]] = {}  # (data set, lane) -> (epoch, window) read ahead last

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def batch(self, step: int, rows: int | None = None) -> Batch:
        """This process's batch of a step, or its first rows."""
        draws = self.order.local_draws(step, self.process, self.processes)[:rows]
        for draw in draws:
            if self.readers[draw.dataset].is_remote:
                self._read_ahead(draw)
        randoms = [np.random.default_rng([self._seed(draw), draw.epoch, draw.sample]) for draw in draws]
        return self.builder.build([self._record(draw) for draw in draws], randoms)

    def _seed(self, draw: Draw) -> int:
        return self.order.orders[draw.dataset].seed

    def _record(self, draw: Draw) -> Record:
        record = self.readers[draw.dataset][draw.sample]
        if self.negatives is None or draw.dataset:
            return record
        # Apart from the augmentation's, so that a row's own image is the same with and without a negative.
        random = np.random.default_rng([self._seed(draw), draw.epoch, draw.sample, 1])
        return self.negatives.add(record, draw.sample, random)

    def _read_ahead(self, draw: Draw) -> None:
        """Fetch what a lane reads next: its window, when it is new, and the one after it."""
        lane, place = (draw.dataset, draw.lane), (draw.epoch, draw.window)
        if self._ahead.get(lane) == place:
            return
        self._ahead[lane] = place
        for number in (draw.window, draw.window + 1):
            runs = self.order.orders[draw.dataset].window_runs(draw.epoch, draw.lane, number)
            self.readers[draw.dataset].read_ahead(runs)

    def from_step(self, start_step: int, max_steps: int) -> Iterator[Batch]:
        """The batches of the steps from `start_step` up to `max_steps`, read ahead by the workers.

        Raises:
            UserError: a worker died.
        """
        ahead = 2 if self.workers else None
        steps = range(start_step, max_steps)
        with told_of_workers("resume=true goes on from the last checkpoint, with fewer data.workers=N if it was"):
            yield from DataLoader(self, batch_size=None, sampler=steps, num_workers=self.workers, prefetch_factor=ahead)

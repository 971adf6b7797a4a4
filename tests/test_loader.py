"""The batches of a run are the same for any number of processes and workers, from one data set or several."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gcl.data.augment import Augmentation
from gcl.data.batch import build_batch_builder, hash64
from gcl.data.images import ImageReader
from gcl.data.loader import DataSettings, Portion, StepBatches, build_mixture, build_readers
from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.data.shards import ShardReader
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError

LAYOUTS = [(1, 0), (1, 2), (2, 1), (2, 2), (4, 1)]  # processes, workers
BATCH, LANES = 16, 8

Row = tuple[int, bytes]  # hash of an item_id, digest of the augmented pixels


def tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text)] for text in texts])


def write_demo(folder: Path, seed: int, rows: int, max_samples: int) -> str:
    drawn = [DemoSource(rows, seed=seed, image_size=32).record(number) for number in range(rows)]
    records = [
        Record({**row.fields, "item_id": f"{seed}-{number}"}, {"image": row.images["image"][0]})  # type: ignore[dict-item]
        for number, row in enumerate(drawn)
    ]
    write_shards(folder, {"train": records}, max_samples)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Shards of 30, 30 and 9 samples: fewer than lanes, and uneven; and a second data set in two shards."""
    root = tmp_path_factory.mktemp("shards")
    return [write_demo(root / "first", 0, 69, 30), write_demo(root / "second", 1, 33, 20)]


def batches_of(settings: DataSettings, process: int, processes: int) -> StepBatches:
    readers = build_readers(settings)
    order = build_mixture(readers, settings, BATCH, 7, processes)
    pixels = ImageReader(16, "bicubic", "squash", settings.augmentation)
    builder = build_batch_builder(readers[0], ["image", "title"], ["item_id"], pixels, tokenize)
    return StepBatches(readers, order, builder, settings.workers, process, processes)


def global_batches(settings: DataSettings, processes: int, steps: int) -> list[list[Row]]:
    """The rows of each step's global batch, as the processes' loaders give them."""
    rows: list[list[Row]] = [[] for _ in range(steps)]
    for process in range(processes):
        for step, batch in enumerate(batches_of(settings, process, processes).from_step(0, steps)):
            digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in batch.images["image"]]
            rows[step] += zip(batch.identities["item_id"].tolist(), digests, strict=True)
    return rows


def settings_of(path: str, workers: int, mixture: list[Portion] | None = None) -> DataSettings:
    changes = Augmentation(min_area=0.3, flip=0.5, brightness=0.3, hue=0.1)
    return DataSettings(path, workers=workers, lanes=LANES, window=5, augmentation=changes, mixture=mixture or [])


def test_ids_and_augmentation_of_two_epochs_are_the_same_for_any_processes_and_workers(folders: list[str]) -> None:
    steps = 2 * (69 // LANES * LANES // BATCH)
    expected = global_batches(settings_of(folders[0], 0), 1, steps)
    for processes, workers in LAYOUTS[1:]:
        assert global_batches(settings_of(folders[0], workers), processes, steps) == expected
    ids = {hash64(record.item_id) for record in ShardReader(folders[0], "train")}
    for epoch in (expected[: steps // 2], expected[steps // 2 :]):
        seen = [item for batch in epoch for item, _ in batch]
        assert len(set(seen)) == len(seen) and set(seen) <= ids
        assert len(ids) - len(seen) < BATCH + LANES
    pixels = [dict(row for batch in half for row in batch) for half in (expected[: steps // 2], expected[steps // 2 :])]
    shared = pixels[0].keys() & pixels[1].keys()
    assert len(shared) > 40 and all(pixels[0][item] != pixels[1][item] for item in shared), "each epoch augments anew"


def test_a_mixture_is_the_same_for_any_processes_and_workers(folders: list[str]) -> None:
    portions = [Portion(folders[1], 0.5)]
    expected = global_batches(settings_of(folders[0], 0, portions), 1, 12)
    for processes, workers in LAYOUTS[1:]:
        assert global_batches(settings_of(folders[0], workers, portions), processes, 12) == expected
    second = {hash64(record.item_id) for record in ShardReader(folders[1], "train")}
    shares = [sum(item in second for item, _ in batch) for batch in expected]
    assert set(shares) == {5, 6} and sum(shares) == 12 * BATCH // 3


def test_a_run_goes_on_at_any_step(folders: list[str]) -> None:
    batches = batches_of(settings_of(folders[0], 1), 0, 1)
    later = [batch.identities["item_id"].tolist() for batch in batches.from_step(3, 6)]
    assert later == [batches[step].identities["item_id"].tolist() for step in (3, 4, 5)]


def test_a_window_is_bounded_in_bytes(folders: list[str]) -> None:
    settings = settings_of(folders[0], 0)
    settings.window, settings.window_megabytes = 4096, 0.02
    reader = ShardReader(folders[0], "train")
    window = build_mixture([reader], settings, BATCH, 0, 1).orders[0].window
    assert window == int(20_000 / reader.bytes_per_sample)
    sizes = [shard.bytes for shard in reader.shards]
    assert reader.bytes_per_sample == pytest.approx(sum(sizes) / len(reader), rel=0.35)  # a tar ends with padding
    assert 2 < window < 20


def test_a_field_that_is_an_image_here_and_text_there_is_refused(folders: list[str], tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": [Record({"item_id": "1", "image": "photo.jpg"}, {})]})
    settings = settings_of(folders[0], 0, [Portion(str(tmp_path), 1.0)])
    with pytest.raises(UserError, match="field 'image' is text in .* and image in the data before; prepare"):
        build_readers(settings)


def test_a_field_that_only_a_further_data_set_has_can_be_trained_on(folders: list[str], tmp_path: Path) -> None:
    rows = [Record({"item_id": f"x{n}", "title": "mug", "brand": "Acme"}, {}) for n in range(40)]
    write_shards(tmp_path, {"train": rows})
    readers = build_readers(settings_of(folders[0], 0, [Portion(str(tmp_path), 1.0)]))
    assert readers[0].split_fields(["image", "brand"]) == (["image"], ["brand"])


def test_random_changes_are_those_of_the_seed_the_epoch_and_the_sample(folders: list[str]) -> None:
    batches = batches_of(settings_of(folders[0], 0), 0, 1)
    number = int(batches.order.orders[0].batch(0)[3])
    random = np.random.default_rng([7, 0, number])
    expected = batches.builder.image_reader.read(batches.readers[0][number].images["image"], random)
    assert torch.equal(batches[0].images["image"][3], expected)

"""Our loader beside open_clip_train's webdataset loader: samples per CPU second, from tar shards to batches.

python benchmarks/loader.py [--quick]

Both read the same JPEGs of 300 to 500 pixels with their titles and give batches of 64, through two worker processes of
their own: read, decode, crop at random (at least 0.9 of the area, bicubic) or take the whole, tokenize with CLIP's
tokenizer, collate. Theirs is `get_wds_dataset` with `image_transform` as it stands, and gives normalised float32; ours
is what train.py builds, and gives uint8, as the model normalises on its device. "ours, float32" does that in the
workers too. Our crops keep the photo's own aspect ratio in the mean, theirs a square's; whole photos are the very same.

A measurement is the user and system time of a process with all its workers, forked from one that has only imported,
for three epochs less that for one: starting up is not in it. The sides take turns.
"""

import argparse
import functools
import gc
import json
import logging
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import open_clip_train.data
import torch
from loader_photos import write_photos
from PIL import Image
from rich.console import Console
from rich.table import Table

from gcl.data.augment import Augmentation, draw_change
from gcl.data.batch import Batch, build_batch_builder
from gcl.data.images import ImageReader
from gcl.data.loader import DataSettings, StepBatches, build_mixture, build_readers

OURS, OURS_FLOAT, THEIRS = "ours", "ours, float32", "open_clip"
SIDES = (OURS, OURS_FLOAT, THEIRS)
CROP, WHOLE = "random crop", "whole"
SIZES = (224, 256)
MIN_AREA = 0.9  # open_clip's default
MEAN = STD = 0.5  # SigLIP's
TOKENIZER = "ViT-B-32"  # CLIP's: it lies within open_clip
BATCH_SIZE, WORKERS, LONG = 64, 2, 3  # LONG: epochs of the longer pass
PHOTOS, ROUNDS = 512, 7
QUICK_PHOTOS, QUICK_ROUNDS = 256, 1
COMPARED = 200  # photos whose pixels are compared with Pillow's
TIME_LIMIT_SECONDS = 560  # a further round that would not end by then is left out

log = Console(stderr=True, soft_wrap=True)
# open_clip_train wants webdataset up to 0.2.86; later ones mark the end of a shard, which it takes for a sample.
open_clip_train.data.tar_file_expander = functools.partial(open_clip_train.data.tar_file_expander, eof_value=None)


@dataclass(frozen=True)
class Task:
    """One measurement."""

    side: str
    size: int  # pixels
    crop: str
    folder: Path
    photos: int


class NormalisedBatches(StepBatches):
    """Batches as open_clip's loader gives them: float32, normalised by the worker."""

    def __getitem__(self, step: int) -> Batch:
        batch = super().__getitem__(step)
        batch.images = {name: pixels.float().div_(255).sub_(MEAN).div_(STD) for name, pixels in batch.images.items()}
        return batch


def our_batches(task: Task, epochs: int) -> Iterator[Batch]:
    augmentation = Augmentation(min_area=MIN_AREA) if task.crop == CROP else Augmentation()
    settings = DataSettings(str(task.folder / "ours"), workers=WORKERS, augmentation=augmentation)
    readers = build_readers(settings)
    order = build_mixture(readers, settings, BATCH_SIZE, 0, 1)
    image_reader = ImageReader(task.size, "bicubic", "squash", augmentation)
    tokenizer = open_clip.get_tokenizer(TOKENIZER)
    builder = build_batch_builder(readers[0], ["image", "title"], ["item_id", "title"], image_reader, tokenizer)
    kind = NormalisedBatches if task.side == OURS_FLOAT else StepBatches
    return kind(readers, order, builder, WORKERS, 0, 1).from_step(0, epochs * task.photos // BATCH_SIZE)


def their_batches(task: Task, epochs: int) -> Iterator[list[torch.Tensor]]:
    settings = SimpleNamespace(
        train_data=shard_pattern(task.folder / "theirs"),
        train_data_upsampling_factors=None,
        train_num_samples=epochs * task.photos,
        dataset_resampled=False,
        batch_size=BATCH_SIZE,
        workers=WORKERS,
        world_size=1,
        seed=0,
    )
    normalised = {"mean": (MEAN,) * 3, "std": (STD,) * 3, "resize_mode": "squash", "interpolation": "bicubic"}
    preprocess = open_clip.image_transform(task.size, is_train=task.crop == CROP, **normalised)
    tokenizer = open_clip.get_tokenizer(TOKENIZER)
    return iter(open_clip_train.data.get_wds_dataset(settings, preprocess, True, tokenizer=tokenizer).dataloader)


def shard_pattern(folder: Path) -> str:
    """open_clip's way to name shards."""
    last = len(list(folder.glob("*.tar"))) - 1
    return f"{folder}/train-{{{0:06d}..{last:06d}}}.tar"


def cpu_seconds(task: Task, epochs: int) -> float:
    """Of reading so many epochs, by this process and workers that are started and ended for them."""
    before = process_seconds()
    batches = their_batches(task, epochs) if task.side == THEIRS else our_batches(task, epochs)
    rows = sum(len(batch.score if isinstance(batch, Batch) else batch[0]) for batch in batches)
    assert rows == epochs * task.photos, f"{task.side}: {rows} rows in {epochs} epochs of {task.photos}"
    del batches
    gc.collect()  # open_clip's workers stay as long as its loader
    assert not multiprocessing.active_children()
    return process_seconds() - before


def process_seconds() -> float:
    """User and system time of this process and of those that it has started and outlived."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def samples_per_second(task: Task) -> float:
    logging.disable()
    multiprocessing.set_start_method("fork", force=True)  # of the workers, which are then this process's children
    torch.set_num_threads(1)
    short, long = (cpu_seconds(task, epochs) for epochs in (1, LONG))
    return (LONG - 1) * task.photos / (long - short)


def measure(task: Task) -> float:
    """Samples per CPU second, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        found = pool.submit(samples_per_second, task).result()
    log.print(f"{task.size} px, {task.crop}, {task.side}: {found:.0f} samples per CPU second")
    return found


Results = dict[tuple[int, str], dict[str, list[float]]]  # (size, crop) -> side -> of each round


def measure_all(folder: Path, photos: int, rounds: int, deadline: float) -> Results:
    """The sides take turns in every round, by turns in either order."""
    cases = [(size, crop) for crop in (CROP, WHOLE) for size in SIZES]
    results: Results = {case: {side: [] for side in SIDES} for case in cases}
    duration = 0.0
    for number in range(rounds):
        began = time.monotonic()
        if number and began + duration > deadline:
            log.print(f"{number} of {rounds} rounds, for want of time")
            break
        for (size, crop), of_case in results.items():
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                of_case[side].append(measure(Task(side, size, crop, folder, photos)))
        duration = time.monotonic() - began
    return results


def mean_pixel_difference(photos: list[bytes], size: int) -> float:
    """Of our random crops from Pillow's bicubic of the same, in 8-bit levels."""
    augmentation = Augmentation(min_area=MIN_AREA)
    reader = ImageReader(size, "bicubic", "squash", augmentation)
    return statistics.mean(
        float(np.abs(reader.read(photo, np.random.default_rng(seed)).numpy() - pillow_crop(photo, size, seed)).mean())
        for seed, photo in enumerate(photos)
    )


def pillow_crop(photo: bytes, size: int, seed: int) -> np.ndarray:
    """(3, size, size) float32."""
    image = Image.open(BytesIO(photo)).convert("RGB")
    change = draw_change(image.height, image.width, Augmentation(min_area=MIN_AREA), np.random.default_rng(seed))
    box = (change.left, change.top, change.left + change.width, change.top + change.height)
    resized = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)


def print_results(results: Results, difference: float) -> None:
    """The table, and as the last line the lower ratio of the two sizes, and the difference, as JSON."""
    table = Table(title=f"samples per CPU second of all processes, {WORKERS} workers, batches of {BATCH_SIZE}")
    headings = (*SIDES, f"{OURS} / {THEIRS}", f"{OURS_FLOAT} / {THEIRS}", "rounds")
    for heading in ("pixels", "crop", *headings):
        table.add_column(heading, justify="left" if heading == "crop" else "right")
    ratios = {}
    for (size, crop), of_case in results.items():
        found = {side: statistics.median(values) for side, values in of_case.items()}
        ratios[size, crop], with_float = (found[side] / found[THEIRS] for side in (OURS, OURS_FLOAT))
        speeds = [f"{found[side]:.0f}" for side in SIDES]
        rounds = str(len(of_case[OURS]))
        table.add_row(str(size), crop, *speeds, f"{ratios[size, crop]:.2f}", f"{with_float:.2f}", rounds)
    Console(width=120).print(table)
    speed_ratio = min(ratios.values())
    print(json.dumps({"speed_ratio": round(speed_ratio, 3), "mean_pixel_difference": round(difference, 4)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PHOTOS} photos and one round: about a minute")
    arguments = parser.parse_args()
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    count, rounds = (QUICK_PHOTOS, QUICK_ROUNDS) if arguments.quick else (PHOTOS, ROUNDS)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the process starts that all others are forked from
    multiprocessing.get_context("forkserver").set_forkserver_preload(["loader"])
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder), count)
        sizes = [len(photo) / 1000 for photo in photos]
        log.print(
            f"{count} photos of {min(sizes):.0f} to {max(sizes):.0f} kB, {statistics.mean(sizes):.0f} in the mean"
        )
        differences = [mean_pixel_difference(photos[:COMPARED], size) for size in SIZES]
        print_results(measure_all(Path(folder), count, rounds, deadline), max(differences))


if __name__ == "__main__":
    main()

"""Augmentation is a pure function of (seed, epoch, sample), and a batch has a row for each record."""

import io

import numpy as np
import pytest
import torch
from pictures import difference, encoded, exif_tags, picture, pixels
from PIL import Image, ImageOps
from torchvision import transforms

from gcl.data.augment import Augmentation, crop, draw_change, recolour
from gcl.data.batch import BatchBuilder, hash64, identity
from gcl.data.images import ImageReader
from gcl.data.loader import StepBatches
from gcl.data.mixture import Mixture
from gcl.data.order import SampleOrder
from gcl.data.record import Record
from gcl.data.shard_writer import write_shards
from gcl.data.shards import ShardReader
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError


def numbers_tokenizer(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text)] for text in texts])


def builder(augmentation: Augmentation | None = None) -> BatchBuilder:
    reader = ImageReader(32, "bicubic", "squash", augmentation)
    return BatchBuilder(["image"], ["title", "query"], ["item_id", "title"], reader, numbers_tokenizer)


def test_a_row_whose_image_cannot_be_decoded_keeps_its_place() -> None:
    photo = encoded(picture(), "JPEG")
    records = [
        Record({"item_id": "1", "title": "red mug"}, {"image": photo}),
        Record({"item_id": "2", "title": "red mug", "query": "mug"}, {"image": photo[:-400]}),
        Record({"item_id": "3", "title": " "}, {}),
    ]
    batch = builder().build(records)
    assert batch.images["image"].shape == (3, 3, 32, 32)
    assert batch.present["image"].tolist() == [True, False, False]
    assert (batch.encoded_images, batch.undecodable) == (2, 1)  # the third row has none
    assert batch.images["image"][1:].count_nonzero() == 0
    assert batch.present["title"].tolist() == [True, True, False]
    assert batch.present["query"].tolist() == [False, True, False]
    assert batch.texts["query"].tolist() == [[0], [3], [0]]
    assert batch.score.tolist() == [1, 1, 1] and batch.unscored == 0


def test_equal_values_have_equal_hashes_and_missing_ones_have_none() -> None:
    records = [Record({"title": title}, {}) for title in ("mug", "mug ", "cup", "")] + [Record({}, {})]
    hashes = identity(records, "title").tolist()
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[3:] == [0, 0]
    assert hash64("mug") == hashes[0] == -2607648960312821759


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("shards")
    rows = [DemoSource(products=16, image_size=64).record(i) for i in range(16)]
    records = [Record(row.fields, {"image": row.images["image"][0]}) for row in rows]  # type: ignore[dict-item]
    write_shards(folder, {"train": records}, max_samples=10)
    return ShardReader(folder, "train")


def images_by_sample(
    reader: ShardReader, augmentation: Augmentation, seed: int, epoch: int, processes: int
) -> dict[int, bytes]:
    """The pixels of every sample of an epoch, gathered from all processes."""
    order = SampleOrder((10, 6), 8, 4, 2, seed)
    seen = {}
    for process in range(processes):
        batches = StepBatches([reader], Mixture((order,), (1.0,)), builder(augmentation), 0, process, processes)
        for step in range(epoch * 2, epoch * 2 + 2):
            numbers = order.local_batch(step, process, processes).tolist()
            pixels = batches[step].images["image"]
            seen |= {number: image.numpy().tobytes() for number, image in zip(numbers, pixels, strict=True)}
    return seen


def test_augmentation_is_a_pure_function_of_seed_epoch_and_sample(reader: ShardReader) -> None:
    cropped = Augmentation(min_area=0.3, flip=0.5)
    first = images_by_sample(reader, cropped, seed=1, epoch=0, processes=1)
    assert len(first) == 16
    assert images_by_sample(reader, cropped, seed=1, epoch=0, processes=4) == first
    for seed, epoch in ((1, 1), (2, 0)):
        other = images_by_sample(reader, cropped, seed, epoch, processes=2)
        assert [sample for sample in first if first[sample] == other[sample]] == []


def test_without_augmentation_every_epoch_sees_the_image_as_it_is(reader: ShardReader) -> None:
    plain = builder().build(list(reader)).images["image"]
    expected = {sample: image.numpy().tobytes() for sample, image in enumerate(plain)}
    assert images_by_sample(reader, Augmentation(), seed=1, epoch=3, processes=2) == expected


def test_evaluation_sees_the_image_as_it_is_whatever_the_augmentation(reader: ShardReader) -> None:
    plain, augmenting = (builder(a).build(list(reader)) for a in (None, Augmentation(0.3, 1.0)))
    assert torch.equal(plain.images["image"], augmenting.images["image"])


def changed(image: torch.Tensor, augmentation: Augmentation, seed: int) -> torch.Tensor:
    change = draw_change(image.shape[1], image.shape[2], augmentation, np.random.default_rng(seed))
    return recolour(crop(image, change), change)


def test_half_of_the_images_are_flipped_where_the_probability_is_a_half() -> None:
    image = torch.arange(12).reshape(1, 3, 4)
    flipped = [changed(image, Augmentation(flip=0.5), seed) for seed in range(400)]
    assert 160 < sum(torch.equal(after, image.flip(2)) for after in flipped) < 240


def test_a_flip_is_a_mirror_and_a_crop_keeps_its_area_and_shape() -> None:
    image = torch.arange(3 * 60 * 80, dtype=torch.int32).reshape(3, 60, 80)
    assert torch.equal(changed(image, Augmentation(flip=1.0), 0), image.flip(2))
    for seed in range(200):
        part = changed(image, Augmentation(min_area=0.5), seed)
        height, width = part.shape[1:]
        assert 0.45 <= height * width / (60 * 80) <= 1.0
        assert 0.7 <= (width / 80) / (height / 60) <= 1.43
        top, left = divmod(int(part[0, 0, 0]), 80)
        assert torch.equal(part, image[:, top : top + height, left : left + width])


def test_the_smallest_crop_of_a_narrow_image_has_a_pixel() -> None:
    narrow = torch.zeros(3, 100, 2, dtype=torch.uint8)
    for seed in range(50):
        assert min(changed(narrow, Augmentation(min_area=0.01), seed).shape) >= 1


@pytest.mark.parametrize("size", [64, 224, 256])
def test_a_crop_has_the_pixels_that_pillow_makes_of_the_same_part(size: int) -> None:
    augmentation = Augmentation(min_area=0.3, flip=0.5)
    reader = ImageReader(size, "bicubic", "squash", augmentation)
    for seed in range(10):
        photo = encoded(picture(400, 350, seed), "JPEG", quality=90)
        change = draw_change(350, 400, augmentation, np.random.default_rng(seed))
        box = (change.left, change.top, change.left + change.width, change.top + change.height)
        expected = Image.open(io.BytesIO(photo)).crop(box).resize((size, size), Image.BICUBIC)
        expected = ImageOps.mirror(expected) if change.is_flipped else expected
        assert difference(reader.read(photo, np.random.default_rng(seed)), pixels(expected)) < 0.1


def test_what_is_drawn_does_not_depend_on_how_an_image_is_stored() -> None:
    every = Augmentation(0.5, 0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    reader = ImageReader(64, "bicubic", "squash", every)
    files = [encoded(picture(), "PNG"), encoded(picture(), "JPEG", quality=98, subsampling=0)]
    files.append(encoded(picture(), "JPEG", quality=98, subsampling=0, progressive=True, exif=exif_tags(1)))
    for seed in range(10):
        first, *others = (reader.read(file, np.random.default_rng(seed)) for file in files)
        assert first.is_contiguous()
        for other in others:
            assert difference(other, first.float()) < 3
        assert torch.equal(first, reader.read(files[0], np.random.default_rng(seed)))


JITTER = {"brightness": 0.4, "contrast": 0.3, "saturation": 0.5, "hue": 0.1}


def test_colours_are_drawn_from_the_range_that_color_jitter_draws_from() -> None:
    theirs, random = transforms.ColorJitter(**JITTER), np.random.default_rng(0)
    draws = [draw_change(8, 8, Augmentation(**JITTER), random).colours for _ in range(500)]
    assert len({tuple(name for name, _ in draw) for draw in draws}) == 24  # every order of the four
    for name in JITTER:
        low, high = getattr(theirs, name)
        factors = [dict(draw)[name] for draw in draws]
        assert low <= min(factors) < low + 0.02 and high - 0.02 < max(factors) <= high


@pytest.mark.parametrize("names", [[name] for name in JITTER] + [list(JITTER)])
def test_colours_are_changed_as_color_jitter_changes_them(names: list[str]) -> None:
    photo = picture(64, 48)
    image = pixels(photo).byte()
    for seed in range(5):
        jitter = Augmentation(**{name: JITTER[name] for name in names})
        change = draw_change(48, 64, jitter, np.random.default_rng(seed))
        assert sorted(name for name, _ in change.colours) == sorted(names)
        of_pillow, of_tensor = photo, image
        for name, factor in change.colours:
            adjust = getattr(transforms.functional, f"adjust_{name}")
            of_pillow, of_tensor = adjust(of_pillow, factor), adjust(of_tensor, factor)
        assert difference(recolour(image, change), of_tensor.float()) < 0.1
        # Pillow turns hues in 256 steps.
        assert difference(recolour(image, change), pixels(of_pillow)) < (3 if "hue" in names else 1)


def test_colours_stay_as_they_are_unless_asked() -> None:
    change = draw_change(300, 400, Augmentation(min_area=0.5, flip=0.5), np.random.default_rng(0))
    assert change.colours == ()


@pytest.mark.parametrize(
    "wrong",
    [{"min_area": 0.0}, {"min_area": 1.5}, {"flip": -0.1}, {"flip": 2.0}, {"brightness": -1.0}, {"contrast": 1.5}]
    + [{"saturation": float("nan")}, {"hue": 0.6}],
)
def test_augmentation_takes_shares(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Augmentation(**wrong)

"""Images become the pixels Pillow makes of them, what is no image is told, and augmentation is a pure function."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from gcl.data import images
from gcl.data.augment import Augmentation, augment
from gcl.data.batch import BatchBuilder, hash64, identity
from gcl.data.images import ImageReader, decode
from gcl.data.loader import StepBatches
from gcl.data.order import SampleOrder
from gcl.data.record import Record, image_problem
from gcl.data.shards import ShardReader, ShardWriter, write_manifest
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion" / "images"
ORIENTATION = 0x0112  # EXIF tag


def picture(width: int = 400, height: int = 300, seed: int = 0) -> Image.Image:
    """Smooth colours and hard edges."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    smooth.paste((250, 20, 30), (width // 8, height // 8, width // 3, height // 2))
    return smooth


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> torch.Tensor:
    """(3, height, width) float32, as Pillow sees it."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.dtype == torch.uint8 and ours.shape == theirs.shape
    return float((ours.float() - theirs).abs().mean())


def pillow_resize(encoded_image: bytes, size: int, resize_mode: str) -> torch.Tensor:
    image = Image.open(io.BytesIO(encoded_image)).convert("RGB")
    if resize_mode == "squash":
        return pixels(image.resize((size, size), Image.BICUBIC))
    # What open_clip does: torchvision's transforms on Pillow's image.
    shortest = transforms.Compose([transforms.Resize(size, InterpolationMode.BICUBIC), transforms.CenterCrop(size)])
    return pixels(shortest(image))


@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
@pytest.mark.parametrize("size", [64, 224, 256])
def test_a_photo_is_resized_as_pillow_resizes_it(size: int, resize_mode: str) -> None:
    reader = ImageReader(size, "bicubic", resize_mode)
    photos = [record.images["image"] for record in DemoSource(products=4, image_size=480)]  # type: ignore[union-attr]
    photos.append(encoded(picture(500, 300), "JPEG", quality=90, subsampling=0))
    differences = [difference(reader.read(photo), pillow_resize(photo, size, resize_mode)) for photo in photos]
    assert max(differences) < 1.0


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the fashion photos are not at hand")
def test_real_photos_are_resized_as_pillow_resizes_them() -> None:
    photos = [path.read_bytes() for path in Random(0).sample(sorted(PHOTOS.rglob("*.jpg")), 40)]
    for size in (128, 256):
        reader = ImageReader(size, "bicubic", "squash")
        differences = [difference(reader.read(photo), pillow_resize(photo, size, "squash")) for photo in photos]
        assert np.mean(differences) < 1.0


@pytest.mark.parametrize(
    "file_format, mode", [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "L"), ("PNG", "1"), ("WEBP", "RGB"), ("GIF", "P")]
)
def test_every_format_is_decoded_as_pillow_decodes_it(file_format: str, mode: str) -> None:
    file = encoded(picture().convert(mode), file_format)
    assert difference(decode(file), pixels(Image.open(io.BytesIO(file)))) < 0.5


def test_a_palette_png_keeps_its_colours() -> None:
    few_colours = picture().quantize(64)
    assert few_colours.mode == "P"
    assert difference(decode(encoded(few_colours, "PNG")), pixels(few_colours)) == 0


def test_a_cmyk_jpeg_is_decoded_to_rgb() -> None:
    file = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert difference(decode(file), pixels(picture())) < 4


def test_a_16_bit_png_keeps_its_greys() -> None:
    greys = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    expected = torch.from_numpy((greys / 257).astype(np.float32)).expand(3, -1, -1)
    assert difference(decode(encoded(Image.fromarray(greys), "PNG")), expected) < 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lands_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (200, 0, 0, 0))
    image.paste((10, 10, 10, 255), (4, 0, 8, 4))
    decoded = decode(encoded(image.convert(mode), "PNG"))
    assert decoded[:, :, :4].unique().tolist() == [255]
    assert decoded[:, :, 4:].float().mean() < 16


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert decode(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")).unique().tolist() == [127]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("comment", [b"", b"x" * 300], ids=["exif_first", "exif_after_a_comment"])
def test_exif_orientation_is_applied(orientation: int, comment: bytes) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = encoded(picture(), "JPEG", quality=95, exif=exif)
    if comment:  # a COM segment, right behind the start of the image
        file = file[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + file[2:]
    upright = pixels(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    assert difference(decode(file), upright) < 0.5


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_an_image_that_is_cut_short_is_no_image(file_format: str, kept: float) -> None:
    whole = encoded(picture(), file_format)
    with pytest.raises(OSError):
        decode(whole[: int(kept * len(whole))])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        encoded(picture(), "BMP"),
        encoded(picture(), "TIFF"),
    ],
    ids=["nothing", "a web page", "JPEG's mark", "PNG's mark", "BMP", "TIFF"],
)
def test_what_is_no_image_of_a_known_format_is_refused(content: bytes) -> None:
    with pytest.raises(OSError):
        decode(content)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, file_format: str) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 400 * 300)
    decode(encoded(picture(400, 300), file_format))
    with pytest.raises(OSError, match="pixels are more than"):
        decode(encoded(picture(401, 300), file_format))


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
    writer = ShardWriter(folder, "train", samples_per_shard=10)
    for record in DemoSource(products=16, image_size=64):
        writer.write(record)  # type: ignore[arg-type]
    writer.close()
    write_manifest(folder, {"train": writer}, {})
    return ShardReader(folder, "train")


def images_by_sample(
    reader: ShardReader, augmentation: Augmentation, seed: int, epoch: int, processes: int
) -> dict[int, bytes]:
    """The pixels of every sample of an epoch, gathered from all processes."""
    order = SampleOrder((10, 6), 8, 4, 2, seed)
    seen = {}
    for process in range(processes):
        batches = StepBatches(reader, order, builder(augmentation), 0, process, processes)
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


def test_half_of_the_images_are_flipped_where_the_probability_is_a_half() -> None:
    image = torch.arange(12).reshape(1, 3, 4)
    flipped = [augment(image, Augmentation(flip=0.5), np.random.default_rng(seed)) for seed in range(400)]
    assert 160 < sum(torch.equal(after, image.flip(2)) for after in flipped) < 240


def test_a_flip_is_a_mirror_and_a_crop_keeps_its_area_and_shape() -> None:
    image = torch.arange(3 * 60 * 80, dtype=torch.int32).reshape(3, 60, 80)
    assert torch.equal(augment(image, Augmentation(flip=1.0), np.random.default_rng(0)), image.flip(2))
    for seed in range(200):
        crop = augment(image, Augmentation(min_area=0.5), np.random.default_rng(seed))
        height, width = crop.shape[1:]
        assert 0.45 <= height * width / (60 * 80) <= 1.0
        assert 0.7 <= (width / 80) / (height / 60) <= 1.43
        top, left = divmod(int(crop[0, 0, 0]), 80)
        assert torch.equal(crop, image[:, top : top + height, left : left + width])


def test_the_smallest_crop_of_a_narrow_image_has_a_pixel() -> None:
    narrow = torch.zeros(3, 100, 2, dtype=torch.uint8)
    for seed in range(50):
        assert min(augment(narrow, Augmentation(min_area=0.01), np.random.default_rng(seed)).shape) >= 1


@pytest.mark.parametrize("wrong", [{"min_area": 0.0}, {"min_area": 1.5}, {"flip": -0.1}, {"flip": 2.0}])
def test_augmentation_takes_shares(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="shares"):
        Augmentation(**wrong)


def test_a_jpeg_that_prepare_lets_pass_is_decoded() -> None:
    """A stray marker before the end: Pillow forgives it, and so must training."""
    photo = encoded(picture(), "JPEG")
    stray = photo[:-2] + b"\xff\xd0" + photo[-2:]
    assert image_problem(stray) is None
    assert decode(stray).shape == decode(photo).shape

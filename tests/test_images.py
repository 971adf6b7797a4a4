"""Images become the pixels that Pillow makes of them, and what is no image is told."""

import io
import time
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from pictures import difference, encoded, exif_tags, picture, pixels
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from gcl.data import images
from gcl.data.images import ImageReader, decode
from gcl.data.record import image_problem
from gcl.data.sources.demo import DemoSource

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion" / "images"


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
    demo = DemoSource(products=4, image_size=480)
    photos = [demo.record(i).images["image"][0] for i in range(4)]
    photos.append(encoded(picture(500, 300), "JPEG", quality=90, subsampling=0))
    differences = [difference(reader.read(photo), pillow_resize(photo, size, resize_mode)) for photo in photos]
    assert max(differences) < 0.3


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the fashion photos are not at hand")
def test_real_photos_are_resized_as_pillow_resizes_them() -> None:
    photos = [path.read_bytes() for path in Random(0).sample(sorted(PHOTOS.rglob("*.jpg")), 40)]
    for size in (128, 256):
        reader = ImageReader(size, "bicubic", "squash")
        differences = [difference(reader.read(photo), pillow_resize(photo, size, "squash")) for photo in photos]
        assert np.mean(differences) < 0.1


@pytest.mark.parametrize(
    "file_format, mode",
    [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "1"), ("WEBP", "RGB"), ("GIF", "P")],
)
def test_every_format_is_decoded_as_pillow_decodes_it(file_format: str, mode: str) -> None:
    file = encoded(picture().convert(mode), file_format)
    assert difference(decode(file), pixels(Image.open(io.BytesIO(file)))) == 0


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 40}, {"optimize": True}])
def test_every_kind_of_jpeg_is_decoded_as_pillow_decodes_it(options: dict[str, object]) -> None:
    file = encoded(picture(397, 301), "JPEG", **options)
    assert difference(decode(file), pixels(Image.open(io.BytesIO(file)))) == 0


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_taken(file_format: str) -> None:
    options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
    first, second = picture(seed=1).quantize(64).convert("RGB"), picture(seed=2)
    file = encoded(first, file_format, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(file)).n_frames == 2
    assert difference(decode(file), pixels(first)) < 0.1


def test_a_palette_png_keeps_its_colours() -> None:
    few_colours = picture().quantize(64)
    assert few_colours.mode == "P"
    assert difference(decode(encoded(few_colours, "PNG")), pixels(few_colours)) == 0


def test_a_cmyk_jpeg_is_decoded_to_rgb() -> None:
    file = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in file  # whose CMYK is inverted
    assert difference(decode(file), pixels(picture())) < 4
    assert difference(decode(file), pixels(Image.open(io.BytesIO(file)))) == 0


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


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
@pytest.mark.parametrize("file_format", ["JPEG", "progressive JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    options: dict[str, object] = {} if file_format == "PNG" else {"quality": 95}
    options |= {"progressive": True} if file_format.startswith("progressive") else {}
    file = encoded(picture(), file_format.split()[-1], exif=exif_tags(orientation), **options)
    upright = pixels(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    assert upright.shape[1:] == ((400, 300) if 5 <= orientation <= 8 else (300, 400))
    assert difference(decode(file), upright) == 0


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """The JPEG with another segment right behind its start."""
    return jpeg[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content + jpeg[2:]


def test_exif_is_found_wherever_it_stands_in_a_jpeg() -> None:
    file = encoded(picture(), "JPEG", exif=exif_tags(6))
    upright = decode(file)
    assert upright.shape == (3, 400, 300)
    for _ in range(3):  # 180 KB of comments and previews
        file = with_segment(with_segment(file, 0xFE, b"x" * 300), 0xE2, b"x" * 60_000)
    assert torch.equal(decode(file), upright)


def test_an_orientation_in_xmp_is_applied_as_pillow_applies_it() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
    assert decode(with_segment(encoded(picture(), "JPEG"), 0xE1, xmp)).shape == (3, 400, 300)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_image_with_broken_exif_is_shown_as_it_lies(file_format: str) -> None:
    whole = encoded(picture(), file_format, exif=exif_tags(6))
    plain = encoded(picture(), file_format)
    start = max(whole.find(b"MM\0*"), whole.find(b"II*\0"))
    broken = whole[:start] + b"oops" + whole[start + 4 :]
    if file_format == "PNG":
        chunk = start - 4  # type and content, then their checksum
        length = int.from_bytes(broken[chunk - 4 : chunk])
        end = start + length
        broken = broken[:end] + zlib.crc32(broken[chunk:end]).to_bytes(4) + broken[end + 4 :]
    assert image_problem(broken) is None  # gcl prepare lets it pass
    assert torch.equal(decode(broken), decode(plain))


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


def test_a_png_that_claims_to_be_gigantic_is_refused_before_it_is_decoded() -> None:
    plain = encoded(picture(), "PNG")
    header = b"IHDR" + (60_000).to_bytes(4) * 2 + plain[24:29]
    giant = plain[:12] + header + zlib.crc32(header).to_bytes(4) + plain[33:]
    with pytest.raises(OSError, match=r"exceeds limit|pixels are more than"):
        decode(giant)


def test_a_jpeg_whose_scans_would_take_minutes_is_refused() -> None:
    photo = encoded(picture(), "JPEG", progressive=True)
    last_scan = photo[photo.rindex(b"\xff\xda") : -2]
    decode(photo)
    with pytest.raises(OSError, match="scans are more than"):
        decode(photo[:-2] + last_scan * 200 + photo[-2:])


def damaged(file: bytes, random: np.random.Generator) -> bytes:
    """The file cut short, with bytes changed, lost or added, anywhere or near its beginning."""
    end = len(file) if random.random() < 0.5 else min(len(file), 200)
    place, kind = int(random.integers(0, end)), random.integers(0, 4)
    junk = random.bytes(int(random.integers(1, 40)))
    if kind == 0:
        return file[:place]
    if kind == 1:
        return file[:place] + file[place + len(junk) :]
    if kind == 2:
        return file[:place] + junk + file[place:]
    changed = bytearray(file)
    for position in random.integers(0, end, size=random.integers(1, 8)):
        changed[position] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # Pillow names every odd tag
def test_damaged_images_are_refused_or_read_and_prepare_agrees() -> None:
    small, random = picture(90, 70), np.random.default_rng(0)
    transparent = small.convert("RGBA")
    transparent.putalpha(120)
    tags = exif_tags(6)
    frames = {"save_all": True, "append_images": [picture(90, 70, 1)]}
    files = [encoded(small, "JPEG", exif=tags), encoded(small, "JPEG", progressive=True)]
    files += [encoded(small.convert("CMYK"), "JPEG"), encoded(small.convert("L"), "JPEG")]
    files += [
        encoded(small, "PNG"),
        encoded(small.quantize(16), "PNG", transparency=3),
        encoded(small, "PNG", **frames),
    ]
    files += [encoded(transparent, "PNG", exif=tags), encoded(small, "GIF"), encoded(small, "GIF", **frames)]
    files += [encoded(small, "WEBP"), encoded(transparent, "WEBP", lossless=True), encoded(small, "WEBP", **frames)]
    outcomes = []
    for number in range(4000):
        file = damaged(files[number % len(files)], random)
        began = time.process_time()
        is_read = True
        try:
            image = decode(file)
            assert image.shape[0] == 3 and image.dtype == torch.uint8
        except OSError:
            is_read = False
        assert time.process_time() - began < 10
        assert is_read == (image_problem(file) is None)
        outcomes.append(is_read)
    assert 400 < sum(outcomes) < 3600


def test_a_jpeg_that_prepare_lets_pass_is_decoded() -> None:
    """A stray marker before the end: Pillow forgives it, and so must training."""
    photo = encoded(picture(), "JPEG")
    stray = photo[:-2] + b"\xff\xd0" + photo[-2:]
    assert image_problem(stray) is None
    assert decode(stray).shape == decode(photo).shape

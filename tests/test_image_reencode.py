"""Images are kept as they came or scaled down, and are decoded to the last byte either way."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from gcl.data.fetch.error import ImageError
from gcl.data.fetch.reencode import kept_image
from gcl.data.image_rgb import rgb_image
from gcl.data.record import MAX_PIXELS, image_problem


def photo(width: int = 300, height: int = 200, mode: str = "RGB") -> Image.Image:
    """Something with slopes, colours, and waves of 20 pixels."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // width, y * 255 // height, 127 * (1 + np.sin((x + y) * np.pi / 10))]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode)


def file_of(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def opened(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded))


def scaled_by_pillow(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return opened(file_of(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), "JPEG", quality=95))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean, in 8-bit levels."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_image_that_is_small_enough_keeps_its_bytes(kind: str) -> None:
    encoded = file_of(photo(), kind)
    assert kept_image(encoded, 200, 90) is encoded
    assert kept_image(encoded, None, 90) is encoded


@pytest.mark.parametrize(("size", "scaled"), [((300, 200), (75, 50)), ((200, 300), (50, 75)), ((51, 5100), (50, 5000))])
def test_a_larger_one_becomes_a_jpeg_of_that_short_side(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    image = opened(kept_image(file_of(photo(*size)), 50, 90))
    assert image.format == "JPEG" and image.mode == "RGB" and image.size == scaled


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("short_side", [40, 99, 150, 399])
def test_it_looks_as_if_decoded_at_full_size_and_scaled_by_pillow(kind: str, short_side: int) -> None:
    encoded = file_of(photo(600, 400), kind, quality=95)
    scaled = opened(kept_image(encoded, short_side, 95))
    assert difference(scaled, scaled_by_pillow(opened(encoded), scaled.size)) < 2


def test_quality_is_what_was_asked_for() -> None:
    encoded = file_of(photo())
    assert len(kept_image(encoded, 150, 95)) > len(kept_image(encoded, 150, 80)) > len(kept_image(encoded, 150, 30))


def test_the_same_bytes_come_from_the_same_bytes() -> None:
    encoded = file_of(photo(), "JPEG")
    assert kept_image(encoded, 100, 90) == kept_image(encoded, 100, 90)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = file_of(photo(), "JPEG", quality=95, exif=exif)
    scaled = opened(kept_image(encoded, 100, 95))
    assert 0x0112 not in scaled.getexif()
    assert difference(scaled, scaled_by_pillow(ImageOps.exif_transpose(opened(encoded)), scaled.size)) < 1


def test_no_metadata_is_left() -> None:
    exif = Image.Exif()
    exif[0x010E] = "the photographer's address"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    encoded = file_of(photo(), "JPEG", exif=exif, icc_profile=profile, comment=b"a comment", dpi=(300, 300))
    assert {"exif", "icc_profile", "comment", "dpi"} <= opened(encoded).info.keys()
    scaled = kept_image(encoded, 100, 90)
    assert opened(scaled).info.keys() == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        grey = np.asarray(photo().convert("L")).astype(np.uint16)
        encoded, expected = file_of(Image.fromarray(grey * 257)), photo().convert("L").convert("RGB")
    else:
        encoded = file_of(photo(mode=mode), "JPEG" if mode == "CMYK" else "PNG")
        expected = photo(mode=mode).convert("RGB")
    assert opened(encoded).mode == mode
    assert rgb_image(opened(encoded)).mode == "RGB"
    assert difference(rgb_image(opened(encoded)), expected) < (8 if mode == "CMYK" else 0.01)
    scaled = opened(kept_image(encoded, 150, 95))
    assert difference(scaled, scaled_by_pillow(expected, scaled.size)) < (8 if mode == "CMYK" else 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency_becomes_white(kind: str) -> None:
    image = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 150, 200))
    scaled = opened(kept_image(file_of(image, kind), 100, 90))
    pixels = np.asarray(scaled).astype(int)
    assert (np.abs(pixels[:, :70] - (255, 0, 0)) < 8).all() and (pixels[:, 80:] > 247).all()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 100_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_giant_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ImageError, match="bad image.*pixels") as refusal:
        kept_image(png_of(side, side), 512, 90)
    assert refusal.value.reason == "bad image"


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    encoded = file_of(photo(), "JPEG", progressive=True)
    assert encoded.count(b"\xff\xda") > 1 and kept_image(encoded, None, 90) is encoded
    last = encoded[encoded.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="bad image.* scans"):
        kept_image(encoded[:-2] + 200 * last + encoded[-2:], 100, 90)


def test_broken_orientation_tags_are_forgiven() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = bytearray(file_of(photo(), "JPEG", exif=exif))
    place = encoded.index(b"Exif\0\0") + 6
    encoded[place : place + 4] = b"XXXX"  # the byte order, by which all the rest is read
    assert opened(kept_image(bytes(encoded), 100, 90)).size == (150, 100)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "not an image"),
        (b"GIF", "not an image"),
        (b"plain words", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"<?xml version='1.0'?><svg/>", "not an image"),
        (b"\0\0\0\x1cftypavif" + bytes(50), "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(50), "not an image"),
        (b"%!PS-Adobe-3.0", "not an image"),
        (b"<!DOCTYPE html>", "web page instead of an image"),
        (b"\xef\xbb\xbf \r\n<HTML>", "web page instead of an image"),
        (b"\xff\xd8\xff", "bad image"),
        (b"GIF89a", "bad image"),
    ],
)
def test_what_is_no_image_says_what_it_is(encoded: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as refusal:
        kept_image(encoded, 512, 90)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("short_side", [50, None])
def test_a_file_that_is_cut_short_is_refused_in_either_form(kind: str, short_side: int | None) -> None:
    encoded = file_of(photo(), kind)
    for length in (len(encoded) * 9 // 10, len(encoded) // 2, 40):
        with pytest.raises(ImageError, match="bad image"):
            kept_image(encoded[:length], short_side, 90)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_refused_or_decode_and_never_crash(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words " * 20
    encoded = file_of(photo(60, 40), kind, **({} if kind == "GIF" else {"exif": exif}))
    dice, refused = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(encoded)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        content = bytes(damaged)
        try:
            assert kept_image(content, None, 90) == content
            assert image_problem(content) is None  # as the check of records sees it
        except ImageError:
            refused += 1
        try:
            assert image_problem(kept_image(content, 20, 90)) is None
        except ImageError as error:
            assert error.reason in ("bad image", "not an image")
    assert refused > 0

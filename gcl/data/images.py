"""Encoded image bytes to uint8 pixels of the size that a model takes.

Pixels stay interleaved, as decoders give them, until they are resized: torch's uint8 kernels are faster on those.
JPEGs are decoded by simplejpeg, everything else and every JPEG that it finds fault with by Pillow. No JPEG is decoded
at a reduced size: for large photos that would save a third of the time, at half a level to a level from Pillow's.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from gcl.data.augment import Augmentation, crop, draw_change, recolour
from gcl.data.image_rgb import rgb_image
from gcl.data.orientation import orientation, upright_pixels
from gcl.data.record import IMAGE_FORMATS, MAX_PIXELS, MAX_SCANS, SCAN

APP1, START_OF_SCAN = 0xE1, 0xDA  # JPEG markers: of EXIF and XMP, of pixels
SEQUENTIAL = (0xC0, 0xC1)  # frames whose scans do not refine each other

# Else each odd tag of each image is a line in the terminal.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageReader:
    """Decode an image and bring it to a square of `size` pixels.

    Args:
        size: side in pixels.
        interpolation: "bicubic" or "bilinear", antialiased.
        resize_mode: "squash" to the square, or "shortest" side to `size` and crop the centre.
        augmentation: applied only where `read` is given a generator.
    """

    size: int
    interpolation: str
    resize_mode: str
    augmentation: Augmentation | None = None

    def read(self, encoded: bytes, random: np.random.Generator | None = None) -> Tensor:
        """(3, size, size) uint8.

        Raises:
            OSError: the bytes are no image, are cut short or hold too many pixels.
        """
        image = decode(encoded)
        if random is None or self.augmentation is None:
            return self._resize(image).contiguous()
        change = draw_change(image.shape[1], image.shape[2], self.augmentation, random)
        return recolour(self._resize(crop(image, change)), change).contiguous()

    def _resize(self, image: Tensor) -> Tensor:
        mode = InterpolationMode(self.interpolation)
        if self.resize_mode == "squash":
            return functional.resize(image, [self.size, self.size], mode, antialias=True)
        shortest = functional.resize(image, [self.size], mode, antialias=True)
        return functional.center_crop(shortest, [self.size, self.size])


def decode(encoded: bytes) -> Tensor:
    """Any image to (3, height, width) uint8 RGB; transparency on white, EXIF orientation applied.

    Raises:
        OSError: the bytes are no image, are cut short, hold too many pixels or would take too long.
    """
    try:
        image = decode_jpeg(encoded) if encoded[:2] == b"\xff\xd8" else None
        image = decode_with_pillow(encoded) if image is None else image
    except OSError:
        raise
    except Exception as error:  # a decoder at work on broken bytes raises anything
        raise OSError(f"not a readable image: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """A plain JPEG, nearly twice as fast as with Pillow, whose pixels it has: (height, width, 3) uint8.

    None where anything is unusual: Pillow forgives what gcl prepare, which asks Pillow too, has let pass.
    """
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(encoded)
        if colour not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        header = read_header(encoded)
        if not header.has_one_scan and encoded.count(SCAN) > MAX_SCANS:
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    except (ValueError, IndexError):
        return None
    if not header.has_tags:
        return pixels
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as opened:  # reads the header alone
        return upright_pixels(pixels, orientation(opened))


@dataclass(frozen=True)
class JpegHeader:
    """What stands before a JPEG's first scan."""

    has_tags: bool  # EXIF or XMP
    has_one_scan: bool  # with all channels, none of them refined by another


def read_header(jpeg: bytes) -> JpegHeader:
    """Walk the segments up to the first scan.

    Raises:
        ValueError, IndexError: there is something else between them, or no scan behind them.
    """
    has_tags, channels, position = False, 0, 2
    while (marker := jpeg[position + 1]) != START_OF_SCAN:
        if jpeg[position] != 0xFF or marker == 0xFF:
            raise ValueError("no marker where a segment ends")
        has_tags |= marker == APP1
        if marker in SEQUENTIAL:
            channels = jpeg[position + 9]
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4])
    return JpegHeader(has_tags, channels == jpeg[position + 4])


def decode_with_pillow(encoded: bytes) -> np.ndarray:
    """Any image: (height, width, 3) uint8."""
    with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise OSError(f"{opened.width} x {opened.height} pixels are more than {MAX_PIXELS}")
        if opened.format == "JPEG" and encoded.count(SCAN) > MAX_SCANS:
            raise OSError(f"{encoded.count(SCAN)} scans are more than {MAX_SCANS}")
        return np.array(rgb_image(opened))

"""Encoded image bytes to uint8 pixels of the size that a model takes."""

import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from gcl.data.augment import Augmentation, augment
from gcl.data.record import IMAGE_FORMATS, MAX_PIXELS

EXIF_SEARCHED = 65_536  # bytes; other segments, such as a comment or a preview, may stand before it


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
        if random is not None and self.augmentation is not None:
            image = augment(image, self.augmentation, random)
        return self._resize(image).contiguous()

    def _resize(self, image: Tensor) -> Tensor:
        mode = InterpolationMode(self.interpolation)
        if self.resize_mode == "squash":
            return functional.resize(image, [self.size, self.size], mode, antialias=True)
        shortest = functional.resize(image, [self.size], mode, antialias=True)
        return functional.center_crop(shortest, [self.size, self.size])


def decode(encoded: bytes) -> Tensor:
    """Any image to (3, height, width) uint8 RGB; transparency on white, EXIF orientation applied.

    Raises:
        OSError: the bytes are no image, are cut short or hold too many pixels.
    """
    try:
        if encoded[:2] == b"\xff\xd8" and b"Exif\0\0" not in encoded[:EXIF_SEARCHED]:
            with suppress(ValueError):  # Pillow forgives what gcl prepare, which asks Pillow, has let pass
                return decode_jpeg(encoded)
        return decode_with_pillow(encoded)
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"not a readable image: {error}") from error


def decode_jpeg(encoded: bytes) -> Tensor:
    """A plain JPEG, three times as fast as with Pillow.

    Raises:
        ValueError: it is not whole, not RGB or grey, or holds too many pixels.
    """
    height, width, colour, _ = simplejpeg.decode_jpeg_header(encoded)
    if colour not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
        raise ValueError(f"{colour}, {width} x {height}")
    return torch.from_numpy(simplejpeg.decode_jpeg(encoded, colorspace="RGB")).permute(2, 0, 1)


def decode_with_pillow(encoded: bytes) -> Tensor:
    with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise OSError(f"{opened.width} x {opened.height} pixels are more than {MAX_PIXELS}")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would cut off at 255
            image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

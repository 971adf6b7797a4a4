"""Which way up a picture is shown: the orientation in its EXIF tags."""

from contextlib import suppress

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF tag
TAGS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where Pillow looks for it
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """1 to 8; 1 where no tag tells, or where tags are broken: browsers show such a picture as it lies."""
    with suppress(
        Exception
    ):  # Pillow's reader of tags stumbles in many ways: SyntaxError, struct.error, TypeError, ...
        found = image.getexif().get(ORIENTATION, 1)
        return found if found in TURNS else 1
    return 1


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is shown, and without the tag; unlike ImageOps.exif_transpose it forgives broken tags."""
    image.load()  # a PNG's tags may stand behind its pixels
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in TAGS:
        turned.info.pop(name, None)
    return turned


def upright_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The same for (height, width, channels): a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels

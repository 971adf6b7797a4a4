"""A picture as Pillow opened it, to plain RGB: transparency on white, EXIF orientation applied."""

import numpy as np
from PIL import Image

from gcl.data.orientation import upright


def rgb_image(opened: Image.Image) -> Image.Image:
    """The picture, 8 bits a channel: from palettes, grey of 1, 8 or 16 bits, CMYK and with transparency alike."""
    image = upright(opened)
    if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would cut off at 255
        image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")

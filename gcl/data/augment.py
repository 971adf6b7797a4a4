"""Random changes to training images, the same for the same generator.

What changes is drawn from the image's width and height alone and applied in two parts: the crop before the image is
resized, so that no pixel is resized in vain; flip and colours after it, where there are fewer pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional

from gcl.errors import UserError


@dataclass
class Augmentation:
    """Random changes to a training image, the same for the same (seed, epoch, sample)."""

    min_area: float = 1.0  # smallest share of the image's area that a random crop keeps; 1: no crop
    flip: float = 0.0  # probability of a horizontal flip
    brightness: float = 0.0  # largest change of the brightness, as a share; 0: none
    contrast: float = 0.0  # largest change of the contrast, as a share; 0: none
    saturation: float = 0.0  # largest change of the saturation, as a share; 0: none
    hue: float = 0.0  # largest turn of the hue in circles, up to 0.5; costs more than reading the image; 0: none

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1 or not 0 <= self.flip <= 1:
            raise UserError(f"augmentation min_area={self.min_area}, flip={self.flip} must be shares from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation {name}={getattr(self, name)} must be a share from 0 to 1")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"augmentation hue={self.hue} must be a turn from 0 to 0.5 circles")


@dataclass(frozen=True)
class Change:
    """What was drawn for one image."""

    top: int
    left: int
    height: int
    width: int
    is_flipped: bool
    colours: tuple[tuple[str, float], ...]  # which to adjust, in this order, and the factor (of hue: the turn)


ADJUST = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
}


def draw_change(height: int, width: int, augmentation: Augmentation, random: np.random.Generator) -> Change:
    """A crop of at least `min_area` with 3/4 to 4/3 of the image's aspect ratio, a flip, and changes of colour."""
    box = (0, 0, height, width)
    if augmentation.min_area < 1.0:
        area = height * width * random.uniform(augmentation.min_area, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3))) * width / height
        crop_width = min(width, max(1, round(math.sqrt(area * ratio))))
        crop_height = min(height, max(1, round(math.sqrt(area / ratio))))
        top = int(random.integers(0, height - crop_height + 1))
        left = int(random.integers(0, width - crop_width + 1))
        box = (top, left, crop_height, crop_width)
    is_flipped = random.random() < augmentation.flip
    return Change(*box, is_flipped, draw_colours(augmentation, random))


def draw_colours(augmentation: Augmentation, random: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """What ColorJitter draws: factors from 1 - share to 1 + share, the hue's from -turn to turn, in random order."""
    asked = [name for name in ADJUST if getattr(augmentation, name) > 0]
    if not asked:
        return ()
    return tuple(
        (name, float((name != "hue") + getattr(augmentation, name) * random.uniform(-1, 1)))
        for name in (asked[i] for i in random.permutation(len(asked)))
    )


def crop(image: Tensor, change: Change) -> Tensor:
    """A view of the part that is kept: (3, height, width)."""
    return image[:, change.top : change.top + change.height, change.left : change.left + change.width]


def recolour(image: Tensor, change: Change) -> Tensor:
    """Flip and adjust the colours of what is left of the image: (3, height, width) uint8."""
    if change.is_flipped:
        image = image.flip(2)
    for name, factor in change.colours:
        image = ADJUST[name](image, factor)
    return image

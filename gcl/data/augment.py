"""Random changes to training images, the same for the same generator."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gcl.errors import UserError


@dataclass
class Augmentation:
    """Random changes to a training image, the same for the same (seed, epoch, sample)."""

    min_area: float = 1.0  # smallest share of the image's area that a random crop keeps; 1: no crop
    flip: float = 0.0  # probability of a horizontal flip

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1 or not 0 <= self.flip <= 1:
            raise UserError(f"augmentation min_area={self.min_area}, flip={self.flip} must be shares from 0 to 1")


def augment(image: Tensor, augmentation: Augmentation, random: np.random.Generator) -> Tensor:
    """A random crop of at least `min_area` with aspect ratio 3/4 to 4/3, and a random flip."""
    if augmentation.min_area < 1.0:
        height, width = image.shape[1:]
        area = height * width * random.uniform(augmentation.min_area, 1.0)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))) * width / height
        crop_width = min(width, max(1, round(np.sqrt(area * ratio))))
        crop_height = min(height, max(1, round(np.sqrt(area / ratio))))
        top = int(random.integers(0, height - crop_height + 1))
        left = int(random.integers(0, width - crop_width + 1))
        image = image[:, top : top + crop_height, left : left + crop_width]
    if random.random() < augmentation.flip:
        image = image.flip(2)
    return image

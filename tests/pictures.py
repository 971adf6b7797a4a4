"""Pictures that tests draw, and what Pillow makes of them."""

import io

import numpy as np
import torch
from PIL import Image

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


def exif_tags(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif

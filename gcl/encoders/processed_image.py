"""Images as a Hugging Face image processor prepares them, opened as safely as gcl's own."""

import json
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from gcl.data.images import decode
from gcl.encoders.identity import digest, probe_picture, tensor_digest, without_origin


@dataclass(frozen=True)
class ProcessedImageReader:
    """Decode an image and let a model's own processor bring it into shape.

    Args:
        processor: a Hugging Face image processor.
    """

    processor: Any

    def read(self, encoded: bytes) -> Tensor:
        """(channels, height, width) float32, normalised.

        Raises:
            OSError: the bytes are no image, are cut short or hold too many pixels.
        """
        picture = Image.fromarray(decode(encoded).permute(1, 2, 0).numpy())
        pixels: Tensor = self.processor(images=[picture], return_tensors="pt")["pixel_values"][0]
        return pixels

    def digest(self) -> str:
        """Of the processor's settings, and of what they make of a picture."""
        settings = without_origin(json.loads(self.processor.to_json_string()))
        return digest([settings, tensor_digest(self.read(probe_picture()))])

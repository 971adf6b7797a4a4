"""What evaluation asks of a model, whoever made it: texts and images in, embeddings of one space out."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gcl.errors import UserError

ReadImage = Callable[[bytes], Tensor]  # an encoded image file -> what `encode_images` takes of it


class Encoder(Protocol):
    """A model that puts texts and images into one space."""

    @property
    def name(self) -> str:
        """What to call it in tables."""

    @property
    def dimensions(self) -> int:
        """Of the embeddings."""

    @property
    def read_image(self) -> ReadImage:
        """Bytes to a tensor whose shape is the same for every image; can be pickled, for worker processes call it.

        It raises OSError for bytes that are no image.
        """

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed what `read_image` made.

        Args:
            images: (rows, ...), stacked, on the encoder's device.

        Returns:
            (rows, dimensions) float32, L2-normalised.
        """

    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Embed texts.

        Args:
            context_length: tokens read of each, then padded as always; None: as many as the model reads.

        Returns:
            (texts, dimensions) float32, L2-normalised.

        Raises:
            UserError: a context_length that is longer than the model's.
        """

    def identity(self) -> dict[str, str]:
        """Everything the embeddings depend on: digests of the weights, of how images are prepared and of the tokenizer.

        Embeddings on disk are found by it, so it never depends on where the model lies or what it is called.
        """

    def to(self, device: torch.device) -> "Encoder":
        """The same encoder on a device."""


def check_context_length(asked: int | None, longest: int | None) -> None:
    """Refuse to read more tokens of a text than the model does.

    Raises:
        UserError: `asked` is below 1 or above `longest`.
    """
    if asked is not None and not 1 <= asked <= (longest or asked):
        raise UserError(f"context_length={asked} does not fit: the model reads 1 to {longest} tokens; leave it out")

"""The images of rows as an encoder reads them, decoded by worker processes."""

import io
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gcl.data.record import Record
from gcl.encoders.encoder import ReadImage
from gcl.retrieval.embeddings.chunks import Piece
from gcl.retrieval.embeddings.joined_reader import Reader


class PieceImages(Dataset[tuple[Tensor, Tensor, int]]):
    """For each piece: images (rows, ...), which of them there are (rows,) bool, and how many could not be decoded.

    Args:
        numbers: the rows that are embedded; a piece counts among them.
    """

    def __init__(
        self, reader: Reader, name: str, numbers: np.ndarray, pieces: list[Piece], read_image: ReadImage
    ) -> None:
        self.reader, self.name, self.numbers, self.pieces, self.read_image = reader, name, numbers, pieces, read_image

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        piece = self.pieces[index]
        records = [self.reader[number] for number in self.numbers[piece.start : piece.stop].tolist()]
        images = [self._read(record) for record in records]
        present = torch.tensor([image is not None for image in images])
        brought = sum(self.name in record.images for record in records) if piece.counts else int(present.sum())
        whole = torch.stack([self._blank if image is None else image for image in images])
        return whole, present, brought - int(present.sum())

    def _read(self, record: Record) -> Tensor | None:
        try:
            return self.read_image(record.images[self.name]) if self.name in record.images else None
        except OSError:
            return None

    @cached_property
    def _blank(self) -> Tensor:
        """What stands in a batch for an image that is not there."""
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        return torch.zeros_like(self.read_image(file.getvalue()))

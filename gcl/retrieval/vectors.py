"""Embeddings by row number, wherever they lie: on a device, or in a file that is larger than memory."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Vectors(Protocol):
    """Embeddings, read in blocks. A row of zeros has none and is never found."""

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int: ...

    def block(self, start: int, stop: int) -> Tensor:
        """(stop - start, dimensions) float32, not to be written to."""

    def rows(self, numbers: Tensor) -> Tensor:
        """(len(numbers), dimensions) float32, in that order."""


@dataclass(frozen=True)
class TensorVectors:
    """(rows, dimensions) float32 in memory."""

    tensor: Tensor

    @property
    def dimensions(self) -> int:
        return self.tensor.shape[1]

    def __len__(self) -> int:
        return len(self.tensor)

    def block(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def rows(self, numbers: Tensor) -> Tensor:
        return self.tensor[numbers.to(self.tensor.device)]


@dataclass(frozen=True)
class ArrayVectors:
    """(rows, dimensions) float16 or float32 of NumPy, usually mapped from a file (mode "c": readable without a copy)."""

    array: np.ndarray

    @property
    def dimensions(self) -> int:
        return int(self.array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def block(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(self.array[start:stop]).float()

    def rows(self, numbers: Tensor) -> Tensor:
        return torch.from_numpy(self.array[numbers.cpu().numpy()]).float()

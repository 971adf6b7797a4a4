"""Embeddings by row number, wherever they lie: on a device, or in a file that is larger than memory."""

import mmap
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gcl.losses.side import Side, prefix, side_embedding

SCATTERED_ROWS = 512  # of a mapped file, read before their pages are given back


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
    """(rows, dimensions) float16 or float32 of NumPy, usually mapped from a file (mode "c": read without a copy)."""

    array: np.ndarray

    @property
    def dimensions(self) -> int:
        return int(self.array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def block(self, start: int, stop: int) -> Tensor:
        values = torch.from_numpy(self.array[start:stop].astype(np.float32))
        self._release()
        return values

    def rows(self, numbers: Tensor) -> Tensor:
        wanted = numbers.cpu().numpy()
        values = np.empty((len(wanted), self.dimensions), np.float32)
        # The kernel maps the neighbours of each page that is read too.
        for start in range(0, len(wanted), SCATTERED_ROWS):
            values[start : start + SCATTERED_ROWS] = self.array[wanted[start : start + SCATTERED_ROWS]]
            self._release()
        return torch.from_numpy(values)

    def _release(self) -> None:
        """Give back the file's pages: they stay in the file cache, but count no longer as this process's."""
        owner: object = self.array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class IndexedVectors:
    """Some of other vectors, in any order and number: row i is their row index[i]."""

    vectors: Vectors
    index: np.ndarray  # (rows,) integer

    @property
    def dimensions(self) -> int:
        return self.vectors.dimensions

    def __len__(self) -> int:
        return len(self.index)

    def block(self, start: int, stop: int) -> Tensor:
        return self.vectors.rows(torch.from_numpy(self.index[start:stop]))

    def rows(self, numbers: Tensor) -> Tensor:
        return self.vectors.rows(torch.from_numpy(self.index[numbers.cpu().numpy()]))


@dataclass(frozen=True)
class SideVectors:
    """A side of rows: the weighted sum of its fields, made block by block."""

    side: Side
    fields: dict[str, Vectors]
    prefix_dimensions: int | None  # of the finished side, normalised again; None: all

    @property
    def dimensions(self) -> int:
        return self.prefix_dimensions or next(iter(self.fields.values())).dimensions

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def block(self, start: int, stop: int) -> Tensor:
        return self._side({name: vectors.block(start, stop) for name, vectors in self.fields.items()})

    def rows(self, numbers: Tensor) -> Tensor:
        return self._side({name: vectors.rows(numbers) for name, vectors in self.fields.items()})

    def _side(self, fields: dict[str, Tensor]) -> Tensor:
        whole, _ = side_embedding(self.side, fields, {name: vectors.any(1) for name, vectors in fields.items()})
        return whole if self.prefix_dimensions is None else prefix(whole, self.prefix_dimensions)

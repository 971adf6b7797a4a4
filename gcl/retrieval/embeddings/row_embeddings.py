"""Every row of a split embedded in memory, the same on every process: for what needs all fields at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.vectors import TensorVectors, Vectors


@dataclass
class RowEmbeddings:
    """Fields of all rows; itself `Embeddings` for tasks, which share what is embedded once."""

    embedder: Embedder
    fields: dict[str, Tensor]  # field -> (rows, dim) float32, zeros where a row lacks it

    @property
    def present(self) -> dict[str, Tensor]:
        """field -> (rows,) bool."""
        return {name: vectors.any(1) for name, vectors in self.fields.items()}

    def field(self, name: str, numbers: np.ndarray, context_length: int | None = None) -> Vectors:
        if context_length is not None or name not in self.fields:
            return self.embedder.field(name, numbers, context_length)
        whole = self.fields[name]
        every = len(numbers) == len(whole) and bool((numbers == np.arange(len(whole))).all())
        return TensorVectors(whole if every else whole[torch.from_numpy(numbers).to(whole.device)])


def embed_rows(embedder: Embedder, names: list[str]) -> RowEmbeddings:
    """Encode these fields of every row (all ranks participate)."""
    numbers = np.arange(len(embedder.rows))
    fields = {name: embedder.field(name, numbers) for name in dict.fromkeys(names)}
    return RowEmbeddings(embedder, {name: vectors.block(0, len(numbers)) for name, vectors in fields.items()})

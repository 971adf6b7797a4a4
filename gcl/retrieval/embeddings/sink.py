"""Where encoded chunks go: into memory, or into a file that outlives the process (store.py)."""

from typing import Protocol

import torch
from torch import Tensor

from gcl.distributed import all_sum, gather, rank, world_size
from gcl.retrieval.embeddings.chunks import chunk_count, chunk_size
from gcl.retrieval.vectors import TensorVectors, Vectors


class Sink(Protocol):
    """Takes chunks in any order, from every process those that it encoded."""

    def missing(self) -> list[int]:
        """The chunks that are not there yet (all ranks participate)."""

    def write(self, chunk: int, vectors: Tensor, undecodable: int) -> None:
        """Keep a chunk: (items, dimensions) float32, and how many of its images could not be decoded."""

    def finish(self) -> tuple[Vectors, int]:
        """All chunks as one, and all their images that could not be decoded (all ranks participate)."""


class MemorySink:
    """Gathers all chunks on every process."""

    def __init__(self, items: int, dimensions: int, device: torch.device) -> None:
        self.items, self.dimensions, self.device = items, dimensions, device
        self.chunks: dict[int, Tensor] = {}
        self.undecodable = 0

    def missing(self) -> list[int]:
        return list(range(chunk_count(self.items)))

    def write(self, chunk: int, vectors: Tensor, undecodable: int) -> None:
        self.chunks[chunk] = vectors
        self.undecodable += undecodable

    def finish(self) -> tuple[TensorVectors, int]:
        size, world = chunk_size(self.items), world_size()
        slots = -(-chunk_count(self.items) // world)
        own = torch.zeros(slots, size, self.dimensions, device=self.device)
        for slot, chunk in enumerate(range(rank(), chunk_count(self.items), world)):
            part = self.chunks.pop(chunk)
            own[slot, : len(part)] = part
        gathered = gather(own).view(world, slots, size, self.dimensions)
        # Chunk c went to process c % world, as its number c // world.
        in_order = gathered.transpose(0, 1).reshape(slots * world * size, self.dimensions)
        undecodable = int(all_sum(torch.tensor(self.undecodable, device=self.device)))
        return TensorVectors(in_order[: self.items]), undecodable

"""The hard negatives of every row: exact search, less what is probably a positive that nobody labelled.

A row's hardest negatives are the rows whose right side scores highest against its left side. Those that score too near
its own right side are left out: NV-Retriever's TopK-PercPos (arXiv 2407.15831).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from gcl.distributed import gather, rank, world_size
from gcl.retrieval.selection import best

# (scores of a block of documents, number of its first) -> the scores, -inf where a document may not be found
Mask = Callable[[Tensor, int], Tensor]

QUERY_BLOCK = 256
CORPUS_BLOCK = 65_536


@dataclass
class Sides:
    """Both sides of every row, and what tells that rows cannot be each other's negatives; on this device."""

    left: Tensor  # (rows, dim) L2-normalised
    right: Tensor  # (rows, dim) L2-normalised
    has_left: Tensor  # (rows,) bool
    has_right: Tensor  # (rows,) bool
    identities: list[Tensor]  # of (rows,) int64; 0: unknown, equal to nothing
    margin: float


@dataclass
class Mined:
    """What was found for every row; the same on every process."""

    numbers: Tensor  # (rows, depth) int64, hardest first, -1 where there are fewer
    scores: Tensor  # (rows, depth) float32
    positive: Tensor  # (rows,) float32: the score of the row's own two sides
    false_negatives: Tensor  # (rows,) int64: how many the margin left out
    takes_part: Tensor  # (rows,) bool: whether it has both sides

    @property
    def has_negatives(self) -> Tensor:
        """Whether a row has at least one: (rows,) bool."""
        return self.numbers[:, 0] >= 0


class NegativeMask:
    """Leaves a block of scores only what can be a negative of some rows, and counts what the margin takes out.

    Row j is none for row i when j is i, has no right side, or agrees with i in an identity; nor when
    score(i, j) > s - (1 - margin) * |s| with s = score(i, i). For s >= 0 that limit is the paper's margin * s; below 0,
    where margin * s would lie above s, it stays below.
    """

    def __init__(self, sides: Sides, numbers: Tensor) -> None:
        self.sides, self.numbers = sides, numbers
        self.takes_part = sides.has_left[numbers] & sides.has_right[numbers]
        self.positive = (sides.left[numbers] * sides.right[numbers]).sum(1)
        self.limit = self.positive - (1 - sides.margin) * self.positive.abs()
        self.false_negatives = torch.zeros_like(numbers)

    def __call__(self, scores: Tensor, start: int) -> Tensor:
        block = slice(start, start + scores.shape[1])
        columns = torch.arange(start, block.stop, device=scores.device)
        others = (columns != self.numbers[:, None]) & self.takes_part[:, None] & self.sides.has_right[block]
        for values in self.sides.identities:
            own = values[self.numbers][:, None]
            others &= (own != values[block]) | (own == 0)
        too_near = others & (scores > self.limit[:, None])
        self.false_negatives += too_near.sum(1)
        return scores.masked_fill(~others | too_near, -torch.inf)


def search_negatives(sides: Sides, negatives_per_row: int, progress: Progress) -> Mined:
    """The hardest negatives of every row, the rows shared among processes (all ranks participate)."""
    rows = len(sides.left)
    own = torch.from_numpy(own_share(rows)).to(sides.left.device)
    depth = min(negatives_per_row, rows)
    blocks = progress.track(own.split(QUERY_BLOCK), description="search")
    found = [negatives_of_block(sides, numbers, depth) for numbers in blocks]
    numbers, scores, positive, false_negatives = (gather(torch.cat(parts))[:rows] for parts in zip(*found, strict=True))
    return Mined(numbers, scores, positive, false_negatives, sides.has_left & sides.has_right)


def negatives_of_block(sides: Sides, numbers: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a few rows: their negatives' numbers and scores, their positive's score, and what the margin left out."""
    mask = NegativeMask(sides, numbers)
    scores, found = search_block(sides.left[numbers], sides.right, depth, mask)
    return found.where(scores > -torch.inf, -1), scores, mask.positive, mask.false_negatives


def own_share(count: int) -> np.ndarray:
    """The contiguous numbers below `count` that are this process's; the last ones repeat, so that shares are equal."""
    share = -(-count // world_size())
    return np.arange(rank() * share, (rank() + 1) * share).clip(max=count - 1)


def search_block(queries: Tensor, corpus: Tensor, depth: int, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
    """The `depth` highest inner products of a few queries that a mask leaves, over blocks of the corpus.

    Args:
        queries: (queries, dimensions) float32.
        corpus: (documents, dimensions) float32.
    """
    scores = queries.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(corpus), CORPUS_BLOCK):
        block = queries @ corpus[start : start + CORPUS_BLOCK].T
        block = mask(block, start) if mask else block
        columns = torch.arange(start, start + block.shape[1], device=queries.device).expand_as(block)
        scores, numbers = best(torch.cat([scores, block], 1), torch.cat([numbers, columns], 1), depth)
    return scores, numbers

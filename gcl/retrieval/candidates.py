"""The documents that may still be among the best of each query, in memory that does not grow with the corpus."""

from collections.abc import Callable

import torch
from torch import Tensor

from gcl.retrieval.bounded_products import BoundedScores
from gcl.retrieval.selection import best, flat_nonzero, highest, spread

CAPACITY = 3  # times the depth: places for each query's candidates
LEAST_CAPACITY = 512
FULL = 0.75  # of the places; queries that fill more after trimming are scored
PART = 512  # queries whose candidates are trimmed at once
PAIRS = 1 << 21  # scored at once, in the mean

# (rows, numbers) of pairs of a query and a document -> their scores
Score = Callable[[Tensor, Tensor], Tensor]


class Candidates:
    """Keeps of every block what can be among a query's best, by bounds on the scores.

    A query's floor is the depth-th highest of its candidates' lowest possible scores. So many documents score at least
    the floor; one whose highest possible score lies below it is none of the best. Where bounds leave more candidates
    than there is room for, they are scored, and only the best are kept; a candidate is scored once at most.

    Args:
        depth: how many of the best are wanted, at least 1.
        floor: (queries,) float32 where floors start; -inf, or higher where it is known or proved afterwards that there
            are enough better documents.
        score: gives the scores themselves.
        numbers: how many documents there are to number.
    """

    def __init__(self, depth: int, floor: Tensor, score: Score, numbers: int) -> None:
        self.capacity = capacity(depth)
        self.depth, self.floor, self.score = depth, floor, score
        # (queries, capacity), filled from the left in ascending order of document
        self.lowest = torch.full((len(floor), self.capacity), -torch.inf, device=floor.device)
        self.highest = torch.full_like(self.lowest, -torch.inf)
        self.numbers = torch.zeros_like(self.lowest, dtype=torch.int32 if numbers < 2**31 else torch.int64)
        self.count = torch.zeros(len(floor), dtype=torch.int64, device=floor.device)

    def add(self, scores: BoundedScores, start: int) -> None:
        """Take in a block of documents, which follow those that were taken in before.

        Args:
            start: number of the block's first document.
        """
        if self.floor.min() == -torch.inf:
            self.raise_floor(scores.lowest_scores(self.depth).amin(1))
        found, counts = self._above_floor(scores)
        if not self._has_room(counts):
            self._make_room()
            found, counts = self._above_floor(scores)
        if self._has_room(counts):
            self._append(found, counts, scores, start)
        else:
            left, right = scores.halves()
            self.add(left, start)
            self.add(right, start + left.products.shape[1])

    def best(self) -> tuple[Tensor, Tensor]:
        """Every query's best, as `search` gives them: (queries, depth); -inf and -1 where a query has fewer."""
        self._trim()
        self._score(torch.ones_like(self.count, dtype=torch.bool))
        width = max(self.depth, int(self.count.max()))
        parts = [best(self.lowest[part, :width], self.numbers[part, :width], self.depth) for part in self._parts()]
        scores, numbers = (torch.cat(some) for some in zip(*parts, strict=True))
        return scores, numbers.where(scores > -torch.inf, -1).long()

    def lowest_score(self, place: int) -> Tensor:
        """What each query's document at that place, from 1, scores at least: (queries,), -inf where there is none."""
        return torch.cat([highest(self.lowest[part], place).amin(1) for part in self._parts()])

    def raise_floor(self, floor: Tensor) -> None:
        """Leave out what scores below (queries,) `floor`: elsewhere there are enough better documents."""
        self.floor = torch.maximum(self.floor, floor)

    def replace(self, rows: Tensor, others: "Candidates") -> None:
        """Take the candidates of some queries, (queries,) int64, from elsewhere."""
        for own, other in zip(self._state(), others._state(), strict=True):
            own[rows] = other

    def _state(self) -> tuple[Tensor, ...]:
        return self.lowest, self.highest, self.numbers, self.count, self.floor

    def _parts(self) -> list[slice]:
        """Queries whose candidates are looked at together."""
        return [slice(start, start + PART) for start in range(0, len(self.count), PART)]

    def _above_floor(self, scores: BoundedScores) -> tuple[Tensor, Tensor]:
        """Places in the flattened products, ascending, and how many of them each query has."""
        found = scores.places_above(self.floor)
        rows, columns = scores.products.shape
        edges = torch.searchsorted(found, torch.arange(rows + 1, device=found.device) * columns)
        return found, edges.diff()

    def _has_room(self, counts: Tensor) -> bool:
        return bool((self.count + counts).max() <= self.capacity)

    def _append(self, found: Tensor, counts: Tensor, scores: BoundedScores, start: int) -> None:
        rows = torch.arange(len(counts), device=found.device)
        next_places = rows * self.capacity + self.count - (counts.cumsum(0) - counts)
        places = torch.arange(len(found), device=found.device).add_(spread(next_places, counts))
        lowest, highest = scores.intervals(found, counts)
        self.lowest.view(-1).scatter_(0, places, lowest)
        self.highest.view(-1).scatter_(0, places, highest)
        numbers = found.add_(spread(start - rows * scores.products.shape[1], counts)).to(self.numbers.dtype)
        self.numbers.view(-1).scatter_(0, places, numbers)
        self.count += counts

    def _make_room(self) -> None:
        self._trim()
        full = self.count > FULL * self.capacity
        if full.any():
            self._score(full)
            self._keep_best(full)

    def _trim(self) -> None:
        """Leave out what lies below the floor."""
        self.raise_floor(self.lowest_score(self.depth))
        for part in self._parts():
            kept = self._is_filled(part) & (self.highest[part] >= self.floor[part, None])
            self.count[part] = kept.sum(1, dtype=torch.int32)
            from_places, to_places = flat_nonzero(kept), flat_nonzero(self._is_filled(part))
            for values in (self.lowest[part], self.highest[part], self.numbers[part]):
                left = values.view(-1).index_select(0, from_places)
                values.fill_(-torch.inf if values.is_floating_point() else 0).view(-1).scatter_(0, to_places, left)

    def _is_filled(self, part: slice) -> Tensor:
        return torch.arange(self.capacity, device=self.count.device) < self.count[part, None]

    def _score(self, queries: Tensor) -> None:
        """Replace the bounds of some queries' candidates, (queries,) bool, by their scores."""
        unknown = (self.lowest < self.highest) & queries[:, None] & self._is_filled(slice(None))
        if not unknown.any():
            return
        # By ranges of documents: each document is read once, and the pairs of a range fit into memory.
        start, stop = int(self.numbers[self.count > 0, 0].min()), int(self.numbers.max()) + 1
        size = -(-(stop - start) * PAIRS // int(unknown.sum()))
        for first in range(start, stop, size):
            places = flat_nonzero(unknown & (self.numbers >= first) & (self.numbers < first + size))
            scores = self.score(places // self.capacity, self.numbers.view(-1).index_select(0, places).long())
            self.lowest.view(-1).scatter_(0, places, scores)
            self.highest.view(-1).scatter_(0, places, scores)

    def _keep_best(self, queries: Tensor) -> None:
        """Of queries with known scores and more candidates than the depth, keep that many."""
        scores, numbers = best(self.lowest[queries], self.numbers[queries], self.depth)
        order = numbers.argsort(1)
        rows, columns = queries.nonzero(), torch.arange(self.depth, device=queries.device)
        self.lowest[queries] = -torch.inf
        self.lowest[rows, columns] = self.highest[rows, columns] = scores.gather(1, order)
        self.numbers[rows, columns] = numbers.gather(1, order)
        self.count[queries] = self.depth
        self.floor[queries] = scores[:, -1]


def capacity(depth: int) -> int:
    """Places for the candidates of each query."""
    return max(int(CAPACITY * depth), LEAST_CAPACITY)

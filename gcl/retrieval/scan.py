"""Reads a range of the corpus once, and keeps what may be among the best of each query."""

import math
from functools import partial

import torch
from rich.progress import Progress
from torch import Tensor

from gcl.retrieval.bounded_products import BoundedProducts
from gcl.retrieval.candidates import Candidates
from gcl.retrieval.exact_scores import exact_scores
from gcl.retrieval.selection import highest
from gcl.retrieval.vectors import Vectors

BLOCK = 3072  # documents multiplied at once
SAMPLED_SHARE = 1 / 12  # of the documents; none of a range whose share is less than a block
MOST_SAMPLED = 65_536
SAFETY = 4  # standard deviations between the depth and the place in the sample that stands for it


class Scan:
    """Finds candidates in a range of documents.

    A floor that rises from nothing lets in four times as many candidates as are left in the end. So it starts at a
    guess, from documents that are spread evenly over the range, and is proved afterwards: where enough candidates
    score at least the guess, nothing that it kept out is among the best. Other queries, one in ten thousand where the
    sample is fair, are searched again without a guess.

    Args:
        documents: numbers in the corpus, all of it or a part.
        depth: how many of the best are wanted, at least 1.
    """

    def __init__(self, corpus: Vectors, documents: range, depth: int) -> None:
        self.corpus, self.documents, self.depth = corpus, documents, depth
        self.centre = self._rows(documents[:: spacing(documents, BLOCK)]).mean(0)

    def candidates(self, queries: Tensor, progress: Progress | None) -> Candidates:
        """The candidates of (queries, dimensions) float32, which are at least one."""
        floor = self._guessed_floor(queries)
        candidates = self._read(queries, floor, progress)
        unproven = (candidates.lowest_score(self.depth) < floor).nonzero().squeeze(1)
        if len(unproven):
            nothing = torch.full_like(floor[unproven], -torch.inf)
            candidates.replace(unproven, self._read(queries[unproven], nothing, progress))
        return candidates

    def _read(self, queries: Tensor, floor: Tensor, progress: Progress | None) -> Candidates:
        """The candidates that are not known to score less than (queries,) `floor`."""
        score = partial(exact_scores, queries, self.corpus)
        candidates = Candidates(self.depth, floor, score, len(self.corpus))
        products = self._products(queries)
        task = progress.add_task("search", total=len(self.documents)) if progress else None
        for start in self.documents[::BLOCK]:
            stop = min(start + BLOCK, self.documents.stop)
            candidates.add(products.of(self.corpus.block(start, stop).to(queries.device)), start)
            if progress and task is not None:
                progress.advance(task, stop - start)
        return candidates

    def _guessed_floor(self, queries: Tensor) -> Tensor:
        """What each query's best probably score at least: (queries,), -inf where the range is too small to sample."""
        share = min(SAMPLED_SHARE, MOST_SAMPLED / max(1, len(self.documents)))
        if share * len(self.documents) < BLOCK:
            return queries.new_full((len(queries),), -torch.inf)
        sample = self.documents[:: spacing(self.documents, int(share * len(self.documents)))]
        expected = self.depth * len(sample) / len(self.documents)  # of the best, in the sample
        place = math.ceil(expected + SAFETY * expected**0.5 + SAFETY)
        products = self._products(queries)
        parts = (self._rows(sample[start : start + BLOCK]).to(queries.device) for start in range(0, len(sample), BLOCK))
        tops = [products.of(part).lowest_scores(place) for part in parts]
        return highest(torch.cat(tops, 1), place).amin(1)

    def _products(self, queries: Tensor) -> BoundedProducts:
        return BoundedProducts(queries, self.centre.to(queries.device))

    def _rows(self, numbers: range) -> Tensor:
        return self.corpus.rows(torch.arange(numbers.start, numbers.stop, numbers.step))


def spacing(documents: range, count: int) -> int:
    """The distance between documents, so that about that many are spread over all of them."""
    return max(1, len(documents) // max(1, count))

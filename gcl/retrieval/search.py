"""Exact search: the best documents of each query, block by block."""

import torch
from rich.progress import Progress
from torch import Tensor

from gcl.distributed import gather, rank, world_size
from gcl.retrieval.candidates import capacity
from gcl.retrieval.scan import BLOCK, Scan
from gcl.retrieval.selection import best
from gcl.retrieval.vectors import Vectors

GROUP_BYTES = 1 << 30  # for the queries that are searched together; more of them read the corpus again
MERGED_BYTES = 1 << 27  # for what is gathered at once from all processes


def search(queries: Tensor, corpus: Vectors, depth: int, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
    """The documents with the `depth` highest scores, equal ones by document number.

    The result is a function of the embeddings alone. A score is the inner product as `exact_scores` defines it: the
    same number for any size of block or number of processes, on any device. Candidates are found by quicker products
    whose error is bounded (`BoundedProducts`), so none is missed.

    Args:
        queries: (queries, dimensions) float32, on the device that searches.
        corpus: the documents; rows of zeros are absent and never found.
        depth: at least 1.

    Returns:
        scores (queries, depth) float32, descending, and document numbers (queries, depth) int64; depth is at most the
        number of documents that are present.

    Raises:
        UserError: an embedding is not finite.
    """
    scan = Scan(corpus, range(len(corpus)), depth)
    return joined([scan.candidates(group, progress).best() for group in query_groups(queries, depth)])


def search_on_all_processes(
    queries: Tensor, corpus: Vectors, depth: int, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """`search` with the corpus shared among processes, each of which reads its own range and gets the whole result.

    All ranks participate, with the same queries.
    """
    share = -(-len(corpus) // world_size())
    scan = Scan(corpus, range(len(corpus))[rank() * share : (rank() + 1) * share], depth)
    found = []
    for group in query_groups(queries, depth):
        candidates = scan.candidates(group, progress)
        # Every process has that many documents at or above the lowest of these floors: together they have depth.
        floors = gather(candidates.lowest_score(-(-depth // world_size())))
        candidates.raise_floor(floors.view(world_size(), -1).amin(0))
        found.append(merged(*candidates.best()))
    return joined(found)


def query_groups(queries: Tensor, depth: int) -> tuple[Tensor, ...]:
    """Queries that are searched together, as many as the memory is for, in groups of one size."""
    bytes_each = 12 * capacity(depth) + 7 * BLOCK + 20 * queries.shape[1]
    groups = -(-len(queries) * bytes_each // GROUP_BYTES)
    return queries.split(-(-len(queries) // groups))


def merged(scores: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Every process's best of its own documents to the best of all, in place (all ranks participate)."""
    depth = scores.shape[1]
    if world_size() == 1:
        return scores, numbers
    for start in range(0, len(scores), rows := max(1, MERGED_BYTES // (40 * depth * world_size()))):
        part = slice(start, start + rows)
        # Of equal scores those of earlier processes come first: their numbers are lower.
        scores[part], numbers[part] = best(side_by_side(scores[part]), side_by_side(numbers[part]), depth)
    return scores, numbers


def side_by_side(values: Tensor) -> Tensor:
    """Every process's (rows, columns) to (rows, processes * columns) (all ranks participate)."""
    return gather(values).view(world_size(), *values.shape).transpose(0, 1).flatten(1)


def joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The results of all groups, without the places that no document is left for."""
    scores, numbers = (torch.cat(parts) for parts in zip(*found, strict=True))
    depth = int((numbers >= 0).any(0).sum())
    return scores[:, :depth], numbers[:, :depth]

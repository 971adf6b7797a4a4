"""Exact search: the best documents of each query, block by block."""

from collections.abc import Callable

import torch
from torch import Tensor

from gcl.distributed import gather, rank, world_size

# (scores of a block of documents, number of its first) -> the scores, -inf where a document may not be found
Mask = Callable[[Tensor, int], Tensor]

QUERY_BLOCK = 256
CORPUS_BLOCK = 65_536


def search(queries: Tensor, corpus: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The `depth` highest inner products, equal ones by document number.

    Args:
        queries: (queries, dim) float32.
        corpus: (documents, dim) float32.

    Returns:
        scores (queries, depth) float32, descending, and document numbers (queries, depth) int64; depth is at most the
        number of documents.
    """
    found = [search_block(block, corpus, min(depth, len(corpus))) for block in queries.split(QUERY_BLOCK)]
    return torch.cat([scores for scores, _ in found]), torch.cat([numbers for _, numbers in found])


def search_block(queries: Tensor, corpus: Tensor, depth: int, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
    """`search` for a few queries, over blocks of the corpus."""
    scores = queries.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(corpus), CORPUS_BLOCK):
        block = queries @ corpus[start : start + CORPUS_BLOCK].T
        block = mask(block, start) if mask else block
        columns = torch.arange(start, start + block.shape[1], device=queries.device).expand_as(block)
        scores, numbers = best(torch.cat([scores, block], 1), torch.cat([numbers, columns], 1), depth)
    return scores, numbers


def best(scores: Tensor, numbers: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The first `depth` columns by descending score, equal ones in column order: a stable sort that stops early."""
    # topk takes any of several equal values, so each column gets its own: the score's bits, made to sort as integers
    # do, above the column's number. Adding 0 turns -0 into 0.
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = (ordered << 32) - torch.arange(scores.shape[1], device=scores.device)
    places = keys.topk(min(depth, scores.shape[1])).indices
    return scores.gather(1, places), numbers.gather(1, places)


def search_on_all_processes(queries: Tensor, corpus: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """`search` with the queries shared among processes (all ranks participate); every process gets all results."""
    share = -(-len(queries) // world_size())
    padded = torch.cat([queries, queries[:1].expand(share * world_size() - len(queries), -1)])
    scores, numbers = search(padded[rank() * share : (rank() + 1) * share], corpus, depth)
    return gather(scores)[: len(queries)], gather(numbers)[: len(queries)]

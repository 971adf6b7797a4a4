"""Exact search: the best documents of each query, block by block."""

import torch
from torch import Tensor

from gcl.distributed import gather, rank, world_size

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


def search_block(queries: Tensor, corpus: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """`search` for a few queries, over blocks of the corpus."""
    scores = queries.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(corpus), CORPUS_BLOCK):
        block = queries @ corpus[start : start + CORPUS_BLOCK].T
        columns = torch.arange(start, start + block.shape[1], device=queries.device).expand_as(block)
        scores, numbers = best(torch.cat([scores, block], 1), torch.cat([numbers, columns], 1), depth)
    return scores, numbers


def best(scores: Tensor, numbers: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The first `depth` columns by descending score; a stable sort keeps equal scores in column order."""
    ordered, places = scores.sort(dim=1, descending=True, stable=True)
    return ordered[:, :depth], numbers.gather(1, places[:, :depth])


def search_on_all_processes(queries: Tensor, corpus: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """`search` with the queries shared among processes (all ranks participate); every process gets all results."""
    share = -(-len(queries) // world_size())
    padded = torch.cat([queries, queries[:1].expand(share * world_size() - len(queries), -1)])
    scores, numbers = search(padded[rank() * share : (rank() + 1) * share], corpus, depth)
    return gather(scores)[: len(queries)], gather(numbers)[: len(queries)]

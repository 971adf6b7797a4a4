"""The score of a query and a document: one number, whatever computes it."""

import warnings

import torch
from torch import Tensor

from gcl.retrieval.vectors import Vectors

DOCUMENTS = 2048  # whose pairs are scored together
CHUNKS = 2**15 - 1  # at most: their numbers are sorted as 16-bit ones, which is quick
DOUBTFUL_PAIRS = 4096  # summed in order at once


def exact_scores(queries: Tensor, corpus: Vectors, rows: Tensor, numbers: Tensor) -> Tensor:
    """The inner products of some pairs: the float64 sum that `sum_in_order` makes, rounded to float32.

    That sum is a function of the two embeddings alone, but slow. So any float64 sum is made first. Both lie within
    n 2^-53 |q||d| of the inner product (n dimensions; a product of float32 is exact, and there are n - 1 additions),
    hence within twice that of each other. Where that whole interval rounds to one float32, this is the score; the
    other pairs, one in thousands, are summed in order.

    Args:
        queries: (queries, dimensions) float32.
        rows: (pairs,) int64 rows of `queries`, ascending.
        numbers: (pairs,) int64 rows of `corpus`, each of which is read once, nearly in ascending order.

    Returns:
        (pairs,) float32.
    """
    scores = torch.empty(len(rows), device=queries.device)
    wide = queries.double()
    lengths = wide.norm(dim=1)
    size = max(DOCUMENTS, -(-len(corpus) // CHUNKS))
    chunks, order = (numbers // size).to(torch.int16).sort(stable=True)
    found, counts = chunks.unique_consecutive(return_counts=True)
    for chunk, places in zip(found.tolist(), order.split(counts.tolist()), strict=True):
        first = chunk * size
        wanted, columns = distinct(numbers.index_select(0, places) - first, size)
        documents = corpus.rows(wanted + first).to(queries.device)
        scores[places] = scores_of_some(wide, lengths, documents, rows.index_select(0, places), columns)
    return scores


def distinct(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The distinct ones of values from 0 to `size`, ascending, and the place of each value among them."""
    occurs = torch.zeros(size, dtype=torch.bool, device=values.device)
    occurs[values] = True
    return occurs.nonzero().squeeze(1), (occurs.cumsum(0) - 1).index_select(0, values)


def scores_of_some(queries: Tensor, lengths: Tensor, documents: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`exact_scores` of pairs of float64 (queries, dimensions), their lengths, and float32 (documents, dimensions)."""
    wide = documents.double()
    sums = quick_sums(queries, wide, rows, columns)
    dimensions = queries.shape[1]
    longest = dimensions**0.5 * float(documents.abs().max())  # no document is longer
    reach = (2.0**-51 * dimensions * longest * lengths).index_select(0, rows)  # twice what is needed
    scores, highest = (sums - reach).float(), (sums + reach).float()
    doubtful = (scores != highest).nonzero().squeeze(1)
    for some in doubtful.split(DOUBTFUL_PAIRS):
        scores[some] = sum_in_order(queries[rows[some]] * wide[columns[some]]).float()
    return scores + 0.0  # never -0


def quick_sums(queries: Tensor, documents: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The inner products of pairs, in ascending order of rows, each summed in whatever order is quick."""
    ends = torch.bincount(rows + 1, minlength=len(queries) + 1).cumsum(0)
    nothing = torch.zeros(len(rows), dtype=queries.dtype, device=rows.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        pairs = torch.sparse_csr_tensor(ends, columns, nothing, (len(queries), len(documents)), check_invariants=False)
        # Reads both sides where they lie. To copy the rows of each pair costs six times as much.
        return torch.sparse.sampled_addmm(pairs, queries, documents.T, beta=0.0).values()


def sum_in_order(products: Tensor) -> Tensor:
    """Sum the columns of (rows, columns) in a fixed order: the second half is added to the first until one is left."""
    while products.shape[1] > 1:
        half = products.shape[1] // 2
        folded = products[:, :half] + products[:, half : 2 * half]
        products = torch.cat([folded, products[:, 2 * half :]], 1)
    return products[:, 0]

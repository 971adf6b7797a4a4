"""Inner products by quick arithmetic, each with a bound on how far it lies from the score."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gcl.errors import UserError
from gcl.retrieval.selection import highest, places_above, spread

FEW_QUERIES = 32  # reading the corpus costs more than multiplying it; rounding it to bfloat16 would be a loss
BFLOAT16_ROUNDING = 2.0**-8  # at most, relative
SMALLEST_LENGTH = 2.0**-56  # what a length of up to 2^14 dimensions may lose to squares that float32 makes 0
SMALLEST_PRODUCT = 2.0**-100  # what products may lose to numbers that the processor makes 0


@dataclass(frozen=True)
class BoundedScores:
    """The product of queries and a block of documents; score(q, d) = offset[q] + products[q, d], give or take
    margin[q] + rounding * |products[q, d]|."""

    products: Tensor  # (queries, documents) float32 or bfloat16; -inf where there is no document
    offset: Tensor  # (queries,) float32
    margin: Tensor  # (queries,) float32
    rounding: float

    def places_above(self, floor: Tensor) -> Tensor:
        """Where the score may lie at or above (queries,) `floor`, in the flattened products, ascending."""
        least = floor - self.offset - self.margin
        return places_above(self.products, torch.minimum(least / (1 + self.rounding), least / (1 - self.rounding)))

    def intervals(self, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and highest possible scores at some places, as many of each query as `counts` says, in order."""
        products = self.products.reshape(-1).index_select(0, places).float()
        reach = products.abs().mul_(self.rounding).add_(spread(self.margin, counts))
        middle = products.add_(spread(self.offset, counts))
        return middle - reach, reach.add_(middle)

    def lowest_scores(self, count: int) -> Tensor:
        """The lowest possible scores of each query's `count` highest products: (queries, count), in no order."""
        products = highest(self.products, count)
        lowest = self.offset[:, None] + products - self.margin[:, None] - self.rounding * products.abs()
        return lowest.where(products > -torch.inf, -torch.inf)

    def halves(self) -> tuple["BoundedScores", "BoundedScores"]:
        """Those of the first half of the documents and of the others."""
        half = self.products.shape[1] // 2
        left, right = self.products[:, :half], self.products[:, half:]
        return replace(self, products=left), replace(self, products=right)


class BoundedProducts:
    """Multiplies queries with blocks of documents.

    A centre m is taken off the documents, for embeddings of one model lie close to each other: q.d = q.m + q.(d - m),
    and the error of the second term is relative to the smaller d - m. With q' and d' for q and d - m rounded to the
    type of the product, f = q - q' and e = (d - m) - d', by Cauchy and Schwarz

        |q.(d - m) - q'.d'| = |f.d' + q.e| <= |f| |d'| + |q| |e|,

    where |f| and |e| are the lengths of the errors that were made, not the largest possible. The processor multiplies
    q' and d' in float32 and in an order of its own, so that each of the n terms goes through n operations at most, each
    off by at most 2^-23 of its result (2^-24 where it rounds to nearest). That adds n 2^-23 |q'| |d'|. All this is
    taken 1.01 times: for |q'| and |d'| against |q| and |d - m|, lengths that are float32 sums, and higher orders. A
    product that is returned in bfloat16 is off by another 2^-8 of itself.

    What is left are a few roundings of numbers up to |q| (|m| + |d - m|) to float32, for which 2^-20 of that is added:
    taking off m, the offset q.m, the ends of the interval, a block of documents that differs from the same rows read
    one by one, and the score. So it is the score that lies within the bound, not only the inner product: of two
    documents whose intervals do not meet, the upper one has the higher score, not one that rounds to the same.

    Args:
        queries: (queries, dimensions) float32.
        centre: (dimensions,) float32; any will do, the nearer to the documents the tighter the bounds.
    """

    def __init__(self, queries: Tensor, centre: Tensor) -> None:
        self._queries = queries.to(product_type(queries))
        self._centre = centre
        self._offset = (queries.double() @ centre.double()).float()
        self._lengths = queries.norm(dim=1) + SMALLEST_LENGTH
        self._lost = (queries - self._queries.float()).norm(dim=1) + SMALLEST_LENGTH
        self._centre_length = float(centre.norm()) + SMALLEST_LENGTH

    def of(self, documents: Tensor) -> BoundedScores:
        """The products of all queries with (documents, dimensions) float32; one of zeros is no document.

        Raises:
            UserError: an embedding is not finite, or a score may lie beyond float32.
        """
        shifted = documents - self._centre
        rounded = shifted.to(self._queries.dtype)
        length = longest(shifted)
        lost = longest(shifted - rounded.float()) if rounded.dtype != shifted.dtype else SMALLEST_LENGTH
        margin = self._margin(length, lost, documents.shape[1])
        if not margin.isfinite().all():
            raise UserError("an embedding holds NaN or infinity, or is too long for scores in float32; encode it again")
        products = self._queries @ rounded.T
        absent = (documents.amax(1) == 0) & (documents.amin(1) == 0)
        if absent.any():
            products[:, absent] = -torch.inf
        rounding = 0.0 if products.dtype == torch.float32 else 1.01 * BFLOAT16_ROUNDING
        return BoundedScores(products, self._offset, margin, rounding)

    def _margin(self, length: float, lost: float, dimensions: int) -> Tensor:
        rounding = self._lost * length + self._lengths * lost
        summing = dimensions * 2.0**-23 * self._lengths * length
        others = 2.0**-20 * self._lengths * (self._centre_length + length)
        return 1.01 * (rounding + summing) + others + SMALLEST_PRODUCT * (1 + self._lengths) * (1 + length)


def product_type(queries: Tensor) -> torch.dtype:
    """bfloat16 where the processor multiplies it itself and sums in float32, otherwise float32."""
    capabilities = torch.cpu.get_capabilities() if queries.device.type == "cpu" else {}
    is_native = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if is_native and len(queries) >= FEW_QUERIES else torch.float32


def longest(vectors: Tensor) -> float:
    """The length of the longest row."""
    return float(vectors.norm(dim=1).max()) + SMALLEST_LENGTH

"""Search is exact: the documents, order and scores of a full sort, however the corpus is cut and multiplied."""

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from loss_processes import run_on_processes
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from gcl.distributed import rank, world_size
from gcl.errors import UserError
from gcl.retrieval import bounded_products, candidates, exact_scores, hard_negatives, scan
from gcl.retrieval import search as search_module
from gcl.retrieval.bounded_products import BoundedProducts, product_type
from gcl.retrieval.hard_negatives import search_block
from gcl.retrieval.search import search, search_on_all_processes
from gcl.retrieval.selection import best, highest, places_above
from gcl.retrieval.vectors import ArrayVectors, TensorVectors, Vectors

QUERIES, DOCUMENTS, DIMENSIONS, DEPTH = 40, 500, 48, 30
TYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            product_type(torch.zeros(1000, 1)) != torch.bfloat16, reason="this processor has no bfloat16"
        ),
    ),
]


def reals(seed: int, rows: int = DOCUMENTS) -> Tensor:
    return torch.randn(rows, DIMENSIONS, generator=torch.Generator().manual_seed(seed))


def integers(seed: int, rows: int = DOCUMENTS) -> Tensor:
    """Vectors whose inner products are exact, with many ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (rows, DIMENSIONS)).astype(np.float32))


def next_floats(seed: int) -> Tensor:
    """Vectors that differ by single bits."""
    one, ulp = reals(seed, 1), torch.tensor(2.0**-23)
    return one * (1 + ulp * torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (DOCUMENTS, DIMENSIONS))))


def with_an_outlier(corpus: Tensor) -> Tensor:
    corpus[DOCUMENTS // 2] *= 1e4
    return corpus


# name -> queries, corpus
CASES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "unit vectors": lambda: (functional.normalize(reals(0, QUERIES)), functional.normalize(reals(1))),
    "lengths from 0.001 to 1000": lambda: (
        reals(0, QUERIES) * 10 ** torch.linspace(-3, 3, QUERIES)[:, None],
        reals(1) * 10 ** torch.linspace(3, -3, DOCUMENTS)[:, None],
    ),
    "one document outweighs all": lambda: (reals(0, QUERIES), with_an_outlier(reals(1))),
    "ties": lambda: (integers(0, QUERIES), integers(1)),
    "single bits": lambda: (reals(0, QUERIES), next_floats(1)),
    "duplicates": lambda: (reals(0, QUERIES), reals(1, 7).repeat(DOCUMENTS // 7 + 1, 1)[:DOCUMENTS]),
    "all the same": lambda: (reals(0, QUERIES), reals(1, 1).expand(DOCUMENTS, -1)),
    "a collapsed model": lambda: (5 + 1e-3 * reals(0, QUERIES), 5 + 1e-3 * reals(1)),
    "negative scores": lambda: (-1 - reals(0, QUERIES).abs(), 1 + reals(1).abs()),
    "from bad to good": lambda: (1 + 0.1 * reals(0, QUERIES), reals(1).sort(0).values),
    "zeros with and without a sign": lambda: (
        torch.eye(QUERIES, DIMENSIONS),
        -torch.eye(DIMENSIONS).roll(1, 0).repeat(DOCUMENTS // DIMENSIONS, 1),
    ),
    "tiny": lambda: (1e-18 * reals(0, QUERIES), 1e-18 * reals(1)),
    "tiny with huge": lambda: (1e-25 * reals(0, QUERIES), 1e15 * reals(1)),
    "between two floats": lambda: (
        torch.tensor([[1.0, 2.0**-24] + [2.0**-40] * (DIMENSIONS - 2)]).expand(QUERIES, -1),
        torch.ones(DOCUMENTS, DIMENSIONS) * integers(1).sign(),
    ),
}


def definition(queries: Tensor, corpus: Tensor) -> Tensor:
    """Every score, pair by pair: products in float64, the second half added to the first until one number is left."""
    rows = [(queries[i].double() * corpus.double()).numpy() for i in range(len(queries))]
    scores = []
    for products in rows:
        while products.shape[1] > 1:
            half = products.shape[1] // 2
            products = np.concatenate([products[:, :half] + products[:, half : 2 * half], products[:, 2 * half :]], 1)
        scores.append(products[:, 0].astype(np.float32))
    return torch.from_numpy(np.stack(scores))


def full_sort(queries: Tensor, corpus: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """A stable sort of all scores: descending, equal ones by document number; without the documents of zeros."""
    present = corpus.any(1).nonzero().squeeze(1)
    found = definition(queries, corpus[present]).sort(dim=1, descending=True, stable=True)
    return found.values[:, :depth], present[found.indices[:, :depth]]


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0], expected[0])
    assert not found[0].signbit().logical_and(found[0] == 0).any(), "-0 is 0"


@pytest.mark.parametrize("block", [1, 64, 1000])
@pytest.mark.parametrize("product", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_documents_order_and_scores_are_those_of_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, case: str, product: torch.dtype, block: int
) -> None:
    queries, corpus = CASES[case]()
    monkeypatch.setattr(bounded_products, "product_type", lambda queries: product)
    monkeypatch.setattr(scan, "BLOCK", block)
    expected = full_sort(queries, corpus, DEPTH)
    assert_same(search(queries, TensorVectors(corpus), DEPTH), expected)
    # Hardly room for the best: candidates are trimmed, scored and cut again and again.
    monkeypatch.setattr(candidates, "CAPACITY", 1.1)
    monkeypatch.setattr(candidates, "LEAST_CAPACITY", 4)
    monkeypatch.setattr(candidates, "PART", 16)
    monkeypatch.setattr(candidates, "PAIRS", 100)
    assert_same(search(queries, TensorVectors(corpus), DEPTH), expected)


def test_the_cases_are_as_hard_as_they_claim() -> None:
    for case in ("ties", "single bits", "duplicates", "all the same", "zeros with and without a sign"):
        scores, _ = full_sort(*CASES[case](), DEPTH + 1)
        assert (scores[:, DEPTH - 1] == scores[:, DEPTH]).any(), f"{case}: no tie at the cut-off"
    queries, corpus = CASES["single bits"]()
    rounded = (queries @ corpus.T).sort(dim=1, descending=True, stable=True)
    assert not torch.equal(rounded.indices[:, :DEPTH], full_sort(queries, corpus, DEPTH)[1])


def test_numpy_s_float64_product_finds_the_same() -> None:
    queries, corpus = CASES["unit vectors"]()
    scores, numbers = search(queries, TensorVectors(corpus), DEPTH)
    expected = queries.numpy().astype(np.float64) @ corpus.numpy().astype(np.float64).T
    order = np.argsort(-expected, axis=1)[:, :DEPTH]
    assert numbers.tolist() == order.tolist()
    assert scores.numpy() == pytest.approx(np.take_along_axis(expected, order, 1), rel=2**-24)


@pytest.mark.parametrize(("queries", "documents", "depth"), [(1, 500, 30), (40, 1, 5), (1, 1, 1), (3, 9, 1000)])
@pytest.mark.parametrize("product", TYPES)
def test_few_queries_or_documents_are_searched(
    monkeypatch: pytest.MonkeyPatch, product: torch.dtype, queries: int, documents: int, depth: int
) -> None:
    monkeypatch.setattr(bounded_products, "product_type", lambda queries: product)
    left, right = reals(0, queries), reals(1, documents)
    scores, numbers = search(left, TensorVectors(right), depth)
    assert scores.dtype == torch.float32 and numbers.dtype == torch.int64
    assert scores.shape == numbers.shape == (queries, min(depth, documents))
    assert_same((scores, numbers), full_sort(left, right, depth))


@pytest.mark.parametrize(("misleading", "passes"), [(False, 1), (True, 2)])
def test_a_guess_that_a_sample_suggests_is_proved_or_given_up(
    monkeypatch: pytest.MonkeyPatch, misleading: bool, passes: int
) -> None:
    monkeypatch.setattr(scan, "BLOCK", 20)
    queries, corpus = functional.normalize(1 + reals(0, 4)), functional.normalize(reals(1, 2000))
    if misleading:  # only what is sampled is good
        corpus[:: scan.spacing(range(2000), int(2000 * scan.SAMPLED_SHARE))] += 1.0
    reads: list[int] = []

    @dataclass(frozen=True)
    class Counted(TensorVectors):
        def block(self, start: int, stop: int) -> Tensor:
            reads.append(start)
            return super().block(start, stop)

    assert_same(search(queries, Counted(corpus), 200), full_sort(queries, corpus, 200))
    assert len(reads) == passes * 2000 // 20


@pytest.mark.parametrize("block", [3, 1000])
@pytest.mark.parametrize("product", TYPES)
def test_a_row_of_zeros_is_never_found(monkeypatch: pytest.MonkeyPatch, product: torch.dtype, block: int) -> None:
    monkeypatch.setattr(bounded_products, "product_type", lambda queries: product)
    monkeypatch.setattr(scan, "BLOCK", block)
    queries, corpus = -1 - reals(0, QUERIES).abs(), 1 + reals(1, 20).abs()
    corpus[[0, 1, 2, 9, 19]] = 0.0  # the best of all, for every score is negative
    corpus[4], corpus[4, 0] = 0.0, 1e-40  # not zeros: its length in float32 is
    found = search(queries, TensorVectors(corpus), 1000)
    assert found[1].shape == (QUERIES, 15)
    assert_same(found, full_sort(queries, corpus, 1000))
    assert_same(search(queries, TensorVectors(corpus), 4), full_sort(queries, corpus, 4))


def test_a_corpus_without_documents_has_none_to_find() -> None:
    for corpus in (torch.zeros(0, DIMENSIONS), torch.zeros(5, DIMENSIONS)):
        scores, numbers = search(reals(0, QUERIES), TensorVectors(corpus), 10)
        assert scores.shape == numbers.shape == (QUERIES, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("side", [0, 1])
def test_embeddings_without_scores_in_float32_are_refused(side: int, value: float) -> None:
    sides = reals(0, QUERIES), reals(1)
    sides[side][3, 5] = value
    sides[1 - side][7, 5] = 1e30
    with pytest.raises(UserError, match="NaN or infinity, or is too long"):
        search(sides[0], TensorVectors(sides[1]), 10)


def test_queries_in_groups_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, corpus = CASES["unit vectors"]()
    monkeypatch.setattr(search_module, "GROUP_BYTES", 400_000)
    assert 1 < len(search_module.query_groups(queries, DEPTH)) < QUERIES
    assert_same(search(queries, TensorVectors(corpus), DEPTH), full_sort(queries, corpus, DEPTH))


def test_float16_files_are_searched_as_the_numbers_they_hold(tmp_path: Path) -> None:
    queries, corpus = reals(0, QUERIES), reals(1).half()
    np.save(tmp_path / "corpus.npy", corpus.numpy())
    mapped = ArrayVectors(np.load(tmp_path / "corpus.npy", mmap_mode="c"))
    assert_same(search(queries, mapped, DEPTH), full_sort(queries, corpus.float(), DEPTH))


@pytest.mark.parametrize("product", TYPES)
@pytest.mark.parametrize("dimensions", [1, 5, 64, 768])
def test_every_score_lies_within_its_bounds(
    monkeypatch: pytest.MonkeyPatch, product: torch.dtype, dimensions: int
) -> None:
    monkeypatch.setattr(bounded_products, "product_type", lambda queries: product)
    generator = torch.Generator().manual_seed(0)
    for queries, documents, centre in ((1, 1, 0.0), (1, 300, 0.5), (33, 1, 0.0), (70, 257, -3.0)):
        left, right = (centre + torch.randn(rows, dimensions, generator=generator) for rows in (queries, documents))
        scores = BoundedProducts(left, right.mean(0)).of(right)
        everywhere = torch.arange(queries * documents), torch.full((queries,), documents)
        lowest, highest = scores.intervals(*everywhere)
        exact = definition(left, right).view(-1)
        assert (lowest <= exact).all() and (exact <= highest).all()
        width = {torch.float32: 1e-3, torch.bfloat16: 0.05}[product]
        assert (highest - lowest).max() < width * left.norm(dim=1).max() * right.norm(dim=1).max(), "a useful bound"


@pytest.mark.parametrize("case", CASES)
def test_a_score_is_the_same_alone_and_among_others(case: str) -> None:
    queries, corpus = CASES[case]()
    rows, numbers = torch.arange(QUERIES).repeat_interleave(3), torch.arange(3 * QUERIES) % len(corpus)
    together = exact_scores.exact_scores(queries, TensorVectors(corpus), rows, numbers)
    assert torch.equal(together, definition(queries, corpus)[rows, numbers])
    for row, number, score in zip(rows.split(1), numbers.split(1), together, strict=True):
        alone = exact_scores.exact_scores(queries[row], TensorVectors(corpus), torch.tensor([0]), number)
        assert alone.item() == score.item()


def test_every_float_sorts_as_a_stable_sort_would() -> None:
    values = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, torch.inf, -torch.inf, 1.0, -1.0]
    scores = torch.tensor(values)[torch.from_numpy(np.random.default_rng(0).integers(0, len(values), (20, 100)))]
    numbers = torch.arange(1000, 1100).expand_as(scores)
    expected = scores.sort(dim=1, descending=True, stable=True)
    for depth in (1, 10, 100, 1000):
        found, columns = best(scores, numbers, depth)
        assert torch.equal(found, expected.values[:, :depth])
        assert torch.equal(columns, expected.indices[:, :depth] + 1000)
        if depth <= 100:
            assert torch.equal(highest(scores, depth).sort(dim=1, descending=True).values, expected.values[:, :depth])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_value_above_its_threshold_is_missed(dtype: torch.dtype) -> None:
    values = reals(0).to(dtype)
    for thresholds in (reals(1)[:, 0], reals(1)[:, 0].abs() + 1e-30, torch.zeros(DOCUMENTS)):
        found = set(places_above(values, thresholds).tolist())
        assert found >= set((values > thresholds[:, None]).view(-1).nonzero().squeeze(1).tolist())
        lower = thresholds - (0.0 if dtype == torch.float32 else 2.0**-7) * thresholds.abs()
        assert found <= set((values > lower[:, None]).view(-1).nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("corpus_block", [7, 1000])
def test_what_a_mask_takes_out_is_found_last(monkeypatch: pytest.MonkeyPatch, corpus_block: int) -> None:
    monkeypatch.setattr(hard_negatives, "CORPUS_BLOCK", corpus_block)
    queries, corpus = integers(0, 5), integers(1, 40)
    allowed = torch.from_numpy(np.random.default_rng(2).random((5, 40)) < 0.5)

    def mask(scores: Tensor, start: int) -> Tensor:
        return scores.masked_fill(~allowed[:, start : start + scores.shape[1]], -torch.inf)

    scores, numbers = search_block(queries, corpus, 40, mask)
    for query, (everything, found) in enumerate(zip(full_sort(queries, corpus, 40)[1], numbers, strict=True)):
        kept = [number for number in everything.tolist() if allowed[query, number]]
        assert found[scores[query] > -torch.inf].tolist() == kept


@dataclass(frozen=True)
class OwnRange(TensorVectors):
    """Refuses to read what belongs to other processes."""

    def block(self, start: int, stop: int) -> Tensor:
        self.check(start, stop - 1)
        return super().block(start, stop)

    def rows(self, numbers: Tensor) -> Tensor:
        self.check(*numbers.tolist())
        return super().rows(numbers)

    def check(self, *numbers: int) -> None:
        share = -(-len(self) // world_size())
        assert all(rank() * share <= number < (rank() + 1) * share for number in numbers)


def search_and_save(accelerator: Accelerator, folder: Path, depths: tuple[int, ...]) -> None:
    scan.BLOCK = 64
    search_module.MERGED_BYTES = 40 * 100  # a few queries at once
    found = {}
    for case in ("unit vectors", "duplicates", "ties"):
        queries, corpus = CASES[case]()
        corpus[::7] = 0.0
        for depth in depths:
            found[f"{case} {depth} scores"], found[f"{case} {depth} numbers"] = search_on_all_processes(
                queries, OwnRange(corpus), depth
            )
    # Fewer documents than processes would each have, some with none that is present.
    corpus = torch.zeros(4, DIMENSIONS)
    corpus[3] = 1.0
    found["few scores"], found["few numbers"] = search_on_all_processes(queries, OwnRange(corpus), 3)
    assert found["few numbers"].tolist() == [[3]] * QUERIES
    file = folder / f"{world_size()}_{accelerator.process_index}.safetensors"
    save_file({name: values.contiguous() for name, values in found.items()}, file)


def test_processes_that_share_the_corpus_find_what_one_finds(tmp_path: Path) -> None:
    depths = (1, 30, 1000)
    for world in (1, 2, 3):
        run_on_processes(world, functools.partial(search_and_save, depths=depths), tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        found = load_file(file)
        for case in ("unit vectors", "duplicates", "ties"):
            queries, corpus = CASES[case]()
            corpus[::7] = 0.0
            for depth in depths:
                names = (f"{case} {depth} scores", f"{case} {depth} numbers")
                assert_same((found[names[0]], found[names[1]]), full_sort(queries, corpus, depth))
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


MEMORY = """
import sys
import numpy as np, torch
from gcl.retrieval.search import search
from gcl.retrieval.vectors import ArrayVectors

def own_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

class Watched(ArrayVectors):
    most = 0
    def block(self, start, stop):
        Watched.most = max(Watched.most, own_bytes())
        return super().block(start, stop)
    def rows(self, numbers):
        Watched.most = max(Watched.most, own_bytes())
        return super().rows(numbers)

corpus = Watched(np.load(sys.argv[1], mmap_mode="c"))
queries = torch.randn(64, corpus.dimensions, generator=torch.Generator().manual_seed(0))
search(queries, Watched(corpus.array[:8192]), 20)
small = Watched.most
search(queries, corpus, 20)
print(Watched.most - small, corpus.array.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((150_000, 128), dtype=np.float32)
    np.save(tmp_path / "corpus.npy", array)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "corpus.npy")]
    grown, size = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert size == 150_000 * 128 * 4
    assert grown < 0.2 * size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_finds_what_a_cpu_finds(case: str) -> None:
    queries, corpus = CASES[case]()
    expected: tuple[Tensor, Tensor] = full_sort(queries, corpus, DEPTH)
    places: list[Vectors] = [TensorVectors(corpus.cuda()), TensorVectors(corpus)]
    for vectors in places:
        scores, numbers = search(queries.cuda(), vectors, DEPTH)
        assert_same((scores.cpu(), numbers.cpu()), expected)

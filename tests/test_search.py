"""Search is exact: the same documents as a full sort, in the same order, however the corpus is cut into blocks."""

import numpy as np
import pytest
import torch

from gcl.retrieval import search as search_module
from gcl.retrieval.search import best, search, search_block, search_on_all_processes


def small_integers(rows: int, seed: int) -> torch.Tensor:
    """Vectors whose inner products are exact in float32, with many ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (rows, 6)).astype(np.float32))


def full_sort(queries: torch.Tensor, corpus: torch.Tensor, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """NumPy's stable sort of all scores: descending, equal ones by document number."""
    scores = queries.numpy() @ corpus.numpy().T
    numbers = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, numbers, 1), numbers


@pytest.mark.parametrize("corpus_block", [1, 7, 64, 1000])
def test_blocks_find_what_a_full_sort_finds_ties_included(monkeypatch: pytest.MonkeyPatch, corpus_block: int) -> None:
    monkeypatch.setattr(search_module, "CORPUS_BLOCK", corpus_block)
    monkeypatch.setattr(search_module, "QUERY_BLOCK", 3)
    queries, corpus = small_integers(10, 0), small_integers(200, 1)
    scores, numbers = search(queries, corpus, depth=50)
    expected_scores, expected_numbers = full_sort(queries, corpus, 50)
    assert numbers.tolist() == expected_numbers.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_real_vectors_are_found_as_topk_finds_them() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, corpus = (torch.randn(rows, 32, generator=generator) for rows in (20, 500))
    scores, numbers = search(queries, corpus, depth=100)
    expected = (queries @ corpus.T).topk(100)
    assert torch.equal(numbers, expected.indices)
    assert torch.allclose(scores, expected.values)


def test_a_depth_beyond_the_corpus_gives_every_document_once() -> None:
    scores, numbers = search(small_integers(4, 0), small_integers(9, 1), depth=1000)
    assert scores.dtype == torch.float32 and numbers.dtype == torch.int64
    assert [sorted(row) for row in numbers.tolist()] == [list(range(9))] * 4


def test_every_float_sorts_as_a_stable_sort_would() -> None:
    values = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, torch.inf, -torch.inf, 1.0, -1.0]
    scores = torch.tensor(values)[torch.from_numpy(np.random.default_rng(0).integers(0, len(values), (20, 100)))]
    numbers = torch.arange(1000, 1100).expand_as(scores)
    expected = scores.sort(dim=1, descending=True, stable=True)
    for depth in (1, 10, 100, 1000):
        found, columns = best(scores, numbers, depth)
        assert torch.equal(found, expected.values[:, :depth])
        assert torch.equal(columns, expected.indices[:, :depth] + 1000)


@pytest.mark.parametrize("corpus_block", [7, 1000])
def test_what_a_mask_takes_out_is_found_last(monkeypatch: pytest.MonkeyPatch, corpus_block: int) -> None:
    monkeypatch.setattr(search_module, "CORPUS_BLOCK", corpus_block)
    queries, corpus = small_integers(5, 0), small_integers(40, 1)
    allowed = torch.from_numpy(np.random.default_rng(2).random((5, 40)) < 0.5)

    def mask(scores: torch.Tensor, start: int) -> torch.Tensor:
        return scores.masked_fill(~allowed[:, start : start + scores.shape[1]], -torch.inf)

    scores, numbers = search_block(queries, corpus, 40, mask)
    for query, (everything, found) in enumerate(zip(full_sort(queries, corpus, 40)[1], numbers, strict=True)):
        kept = [number for number in everything.tolist() if allowed[query, number]]
        assert found[scores[query] > -torch.inf].tolist() == kept


def test_one_process_alone_finds_the_same() -> None:
    queries, corpus = small_integers(5, 0), small_integers(40, 1)
    for alone, shared in zip(search(queries, corpus, 8), search_on_all_processes(queries, corpus, 8), strict=True):
        assert torch.equal(alone, shared)

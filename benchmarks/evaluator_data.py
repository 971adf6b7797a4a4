"""The same embeddings and judgements in the files that each side reads."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

BATCH = 1024  # rows embedded at once: GCL keeps each row as a view of its batch
NOISE = 4.2  # length of what is added to a query's direction to make a relevant document; 4 is easy, 5 hopeless
MOST_RELEVANT = 10


@dataclass(frozen=True)
class Size:
    documents: int
    dimensions: int
    queries: int


def unit_rows(rows: int, dimensions: int, random: np.random.Generator) -> np.ndarray:
    vectors = random.standard_normal((rows, dimensions), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_inputs(folder: Path, size: Size) -> None:
    """Unit vectors in every direction; up to ten documents lie near each query, and are graded 1 to 3."""
    random = np.random.default_rng(0)
    queries = unit_rows(size.queries, size.dimensions, random)
    corpus = unit_rows(size.documents, size.dimensions, random)
    counts = random.integers(1, MOST_RELEVANT + 1, size.queries)
    judged = np.repeat(np.arange(size.queries), counts)
    relevant = random.permutation(size.documents)[: len(judged)]
    near = queries[judged] + NOISE * corpus[relevant]
    corpus[relevant] = near / np.linalg.norm(near, axis=1, keepdims=True)
    query_ids = [f"what people ask for, number {number}" for number in range(size.queries)]
    document_ids = [f"B{number:09d}" for number in random.choice(10**9, size.documents, replace=False)]
    qrels: dict[str, dict[str, int]] = {query: {} for query in query_ids}
    for query, document, grade in zip(judged, relevant, random.integers(1, 4, len(judged)), strict=True):
        qrels[query_ids[query]][document_ids[document]] = int(grade)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "corpus.npy", corpus)
    torch.save(
        [row for batch in torch.from_numpy(corpus).split(BATCH) for row in batch.clone()], folder / "features.pt"
    )
    for name, value in (("query_ids", query_ids), ("document_ids", document_ids), ("qrels", qrels)):
        (folder / f"{name}.json").write_text(json.dumps(value))

"""Embeddings that someone else computed, as a task: embeddings, ids and judgements from files.

gcl evaluate task=precomputed task.queries=queries.npy task.query_ids=query_ids.json task.corpus=docs.npy \
    task.corpus_ids=doc_ids.txt task.qrels=qrels.json output_dir=DIR
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from gcl.distributed import gather, is_main_process, rank, world_size
from gcl.errors import UserError
from gcl.progress import progress_bar
from gcl.retrieval.hits import Judgements
from gcl.retrieval.precomputed.embedding_files import load_embeddings
from gcl.retrieval.precomputed.id_files import load_ids
from gcl.retrieval.precomputed.judgement_files import load_judgements
from gcl.retrieval.precomputed.numbering import numbered
from gcl.retrieval.questions import Questions
from gcl.retrieval.tasks import SEPARATOR
from gcl.retrieval.vectors import Vectors

LOOKED_AT = 1 << 20  # values of which the lengths are taken at once
UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Precomputed:
    """What the files held, checked."""

    questions: Questions  # of the queries that have a relevant document
    queries: Tensor  # (asked queries, dimensions) float32
    corpus: Vectors
    facts: dict[str, Any]  # evaluation.json's "data"
    warnings: list[str]  # a line each


@dataclass
class PrecomputedTask:
    """Search embeddings from files and measure what they find by judgements from a file."""

    queries: str  # embeddings: .npy, .pt or .parquet (FILE.parquet:COLUMN where several columns hold lists of floats)
    query_ids: str  # ids in the order of queries: .json, .txt, .npy or .parquet
    corpus: str  # embeddings of what is searched, as queries; a .npy may be larger than memory
    corpus_ids: str  # ids in the order of corpus, as query_ids
    qrels: str  # JSON {query: {document: grade}}, TREC (.txt), .tsv, .csv or .parquet (query-id, corpus-id, score)
    normalize: bool = False  # make each embedding a unit vector, for cosines; false: inner products as they are
    dimensions: int | None = None  # prefix of the embeddings that is compared, as unit vectors; null: all of them

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise UserError(f"task dimensions {self.dimensions} must be at least 1, or null for the whole embedding")

    def load(self) -> Precomputed:
        """Read and check the files; the embeddings of a .npy or .pt corpus stay on disk.

        Raises:
            UserError: a file that is missing or cannot be read, or files that do not fit each other.
        """
        queries, corpus = self._vectors()
        query_ids, document_ids = load_ids("query_ids", self.query_ids), load_ids("corpus_ids", self.corpus_ids)
        check_count(self.queries, len(queries), self.query_ids, len(query_ids))
        check_count(self.corpus, len(corpus), self.corpus_ids, len(document_ids))
        found = numbered(load_judgements(self.qrels), query_ids, document_ids)
        check_queries(lengths_of(queries, query_ids, self.queries), query_ids, self.queries)
        lengths = lengths_of(corpus, document_ids, self.corpus)
        ids = query_ids.take(pa.array(found.asked)).to_pylist()
        texts = [one.replace(SEPARATOR, " ").strip() for one in ids]
        return Precomputed(
            Questions(ids, texts, document_ids, found.judgements),
            queries.rows(torch.from_numpy(found.asked)),
            corpus,
            {**asdict(self), "fingerprint": fingerprint(document_ids, query_ids, found.judgements)},
            [*found.warnings, *length_warnings(lengths, self.corpus)],
        )

    def _vectors(self) -> tuple[Vectors, Vectors]:
        """Queries and corpus, as they are compared."""
        queries, corpus = load_embeddings("queries", self.queries), load_embeddings("corpus", self.corpus)
        width = corpus.dimensions
        if queries.dimensions != width:
            raise UserError(
                f"{self.queries} has {queries.dimensions} dimensions, {self.corpus} {width}; embed both with one model"
            )
        if self.dimensions is not None and self.dimensions > width:
            raise UserError(f"task dimensions {self.dimensions} are more than the embeddings' {width}; give fewer")
        if not self.normalize and self.dimensions is None:
            return queries, corpus
        return UnitVectors(queries, self.dimensions or width), UnitVectors(corpus, self.dimensions or width)


@dataclass(frozen=True)
class UnitVectors:
    """The first `dimensions` of each embedding, made a unit vector as it is read; zeros stay zeros."""

    vectors: Vectors
    dimensions: int

    def __len__(self) -> int:
        return len(self.vectors)

    def block(self, start: int, stop: int) -> Tensor:
        return self._unit(self.vectors.block(start, stop))

    def rows(self, numbers: Tensor) -> Tensor:
        return self._unit(self.vectors.rows(numbers))

    def _unit(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows[:, : self.dimensions], dim=1)


def fingerprint(document_ids: pa.StringArray, query_ids: pa.StringArray, judgements: Judgements) -> str:
    """A digest of what is asked, searched and relevant, whoever embedded it."""
    digest = hashlib.sha256()
    for ids in (document_ids, query_ids):
        digest.update(pa.record_batch([ids], ["id"]).serialize())
    for numbers in (judgements.queries, judgements.documents, judgements.grades):
        digest.update(np.ascontiguousarray(numbers).data)
    return digest.hexdigest()[:16]


def check_count(embeddings: str, rows: int, id_file: str, ids: int) -> None:
    if rows != ids:
        raise UserError(f"{embeddings} has {rows} rows and {id_file} {ids} ids; give each row its id")


def lengths_of(vectors: Vectors, ids: pa.StringArray, name: str) -> np.ndarray:
    """The Euclidean length of every embedding, block by block: (rows,) float32.

    All ranks participate, and share the rows.

    Raises:
        UserError: an embedding that is not finite, naming its row and its id.
    """
    share = -(-len(vectors) // world_size())
    first = min(rank() * share, len(vectors))
    own = torch.ones(share)
    size = max(1, LOOKED_AT // vectors.dimensions)
    with progress_bar(is_main_process()) as progress:
        for start in progress.track(range(0, share, size), description=f"check {name}"):
            stop = min(first + start + size, first + share, len(vectors))
            block = vectors.block(min(first + start, stop), stop)
            own[start : start + len(block)] = torch.linalg.vector_norm(block, dim=1)
    lengths = gather(own).numpy()[: len(vectors)]
    bad = np.flatnonzero(~np.isfinite(lengths))
    if bad.size:
        raise UserError(
            f"{name} row {bad[0]} ({ids[bad[0]].as_py()!r}) holds NaN, infinity or values too large for float32 "
            f"({bad.size} such rows); embed it again"
        )
    return lengths


def check_queries(lengths: np.ndarray, ids: pa.StringArray, name: str) -> None:
    zeros = np.flatnonzero(lengths == 0)
    if zeros.size:
        raise UserError(f"{name} row {zeros[0]} ({ids[zeros[0]].as_py()!r}) is all zeros; embed the query again")


def length_warnings(lengths: np.ndarray, name: str) -> list[str]:
    """What the lengths of the corpus do to a search; those of the queries change no order."""
    found = lengths[lengths > 0]
    if not found.size:
        raise UserError(f"{name} is all zeros; embed the documents again")
    zeros = len(lengths) - len(found)
    warnings = [f"{zeros} of {len(lengths)} rows of {name} are all zeros and never found"] if zeros else []
    if np.abs(found - 1).max() > UNIT_TOLERANCE:
        warnings.append(
            f"the rows of {name} are {found.min():.3g} to {found.max():.3g} long and compared as they are; for cosines "
            "set task.normalize=true"
        )
    return warnings

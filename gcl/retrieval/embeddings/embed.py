"""Rows to embeddings, on all processes: every image once, every distinct text once."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from gcl.data.manifest import IMAGE
from gcl.data.workers import told_of_workers
from gcl.distributed import is_main_process, world_size
from gcl.encoders.encoder import Encoder
from gcl.errors import UserError
from gcl.progress import progress_bar
from gcl.retrieval.embeddings.chunks import Piece, item_count, own_pieces
from gcl.retrieval.embeddings.joined_reader import Reader
from gcl.retrieval.embeddings.piece_images import PieceImages
from gcl.retrieval.embeddings.row_store import DEAD_WORKER
from gcl.retrieval.embeddings.rows import Rows
from gcl.retrieval.embeddings.sink import MemorySink, Sink
from gcl.retrieval.embeddings.store import EmbeddingStore
from gcl.retrieval.vectors import IndexedVectors, Vectors

MAX_UNDECODABLE_SHARE = 0.05  # of the rows; more is no measurement


class Embeddings(Protocol):
    """Fields of rows as vectors."""

    def field(self, name: str, numbers: np.ndarray, context_length: int | None = None) -> Vectors:
        """The embeddings of one field of these rows, in their order; zeros where a row lacks it.

        (All ranks participate.)
        """


@dataclass(frozen=True)
class Embedder:
    """Embeds fields of rows when they are asked for.

    Args:
        encoder: on the accelerator's device.
        reader: the images' shards.
        rows: the texts of the same rows.
        batch_size: rows encoded at once, per process.
        workers: worker processes that decode images, per process.
        store: where embeddings are kept and found; None: in memory only.
        shows_progress: a bar in a terminal; not where another one is shown already.
        identity: of the encoder, by which stored embeddings are found.
    """

    encoder: Encoder
    reader: Reader
    rows: Rows
    accelerator: Accelerator
    batch_size: int
    workers: int
    store: EmbeddingStore | None
    shows_progress: bool
    identity: dict[str, str] = field(default_factory=dict)

    def field(self, name: str, numbers: np.ndarray, context_length: int | None = None) -> Vectors:
        if self.reader.kinds.get(name) == IMAGE:
            return self._images(name, numbers)
        return self._texts(name, numbers, context_length)

    def _images(self, name: str, numbers: np.ndarray) -> Vectors:
        key = {"images": name, "rows": self.reader.fingerprint, "of": digest_of_numbers(numbers, len(self.reader))}
        sink = self._sink(name, key, len(numbers), self.reader)
        missing = sink.missing()
        pieces = own_pieces(missing, len(numbers), self.batch_size)
        images = PieceImages(self.reader, name, numbers, pieces, self.encoder.read_image)

        def encoded() -> Iterator[tuple[Tensor, int]]:
            on_gpu = self.accelerator.device.type == "cuda"
            batches = DataLoader(images, batch_size=None, num_workers=self.workers, pin_memory=on_gpu)
            with told_of_workers(DEAD_WORKER):
                for pixels, present, undecodable in batches:
                    vectors = self.encoder.encode_images(pixels.to(self.accelerator.device, non_blocking=True))
                    yield vectors * present.to(vectors.device)[:, None], undecodable

        self._encode(name, pieces, item_count(missing, len(numbers)), sink, encoded())
        vectors, undecodable = sink.finish()
        check_undecodable(undecodable, len(numbers))
        return vectors

    def _texts(self, name: str, numbers: np.ndarray, context_length: int | None) -> Vectors:
        values = self.rows.column(name).take(pa.array(numbers))
        in_order = pc.unique(values).sort()  # whichever rows ask: equal texts are found again
        distinct = in_order.to_pylist()
        key = {"texts": digest_of_texts(distinct), "context_length": context_length}
        sink = self._sink(name, key, len(distinct))
        missing = sink.missing()
        pieces = own_pieces(missing, len(distinct), self.batch_size)

        def encoded() -> Iterator[tuple[Tensor, int]]:
            for piece in pieces:
                texts = distinct[piece.start : piece.stop]
                vectors = self.encoder.encode_texts(texts, context_length)
                yield vectors * torch.tensor([bool(text) for text in texts], device=vectors.device)[:, None], 0

        self._encode(name, pieces, item_count(missing, len(distinct)), sink, encoded())
        return IndexedVectors(sink.finish()[0], np.array(pc.index_in(values, value_set=in_order)))

    def _sink(self, name: str, key: dict[str, Any], items: int, shards: Reader | None = None) -> Sink:
        if self.store is None:
            return MemorySink(items, self.encoder.dimensions, self.accelerator.device)
        key |= {"encoder": self.identity, "precision": self.accelerator.mixed_precision}
        return self.store.sink(name, key, items, self.encoder.dimensions, shards)

    def _encode(
        self, name: str, pieces: list[Piece], total: int, sink: Sink, encoded: Iterator[tuple[Tensor, int]]
    ) -> None:
        """Run every piece through the model and keep each chunk when it is whole.

        Args:
            total: items that all processes encode.
        """
        parts: list[Tensor] = []
        undecodable = 0
        started = time.monotonic()
        shown = self.shows_progress and is_main_process()
        with torch.inference_mode(), progress_bar(shown, shows_speed=True) as progress, self.accelerator.autocast():
            task = progress.add_task(f"embed {name}", total=total)
            for piece, (vectors, damaged) in zip(pieces, encoded, strict=True):
                progress.advance(task, len(vectors) * world_size())
                if not piece.counts:
                    continue
                check_finite(vectors, name, piece)
                parts.append(vectors)
                undecodable += damaged
                if piece.is_last:
                    sink.write(piece.chunk, torch.cat(parts), undecodable)
                    parts, undecodable = [], 0
        if shown and pieces:
            seconds = time.monotonic() - started
            Console(stderr=True).print(
                f"embedded {name}: {total:,} in {seconds:.0f} s, {total / seconds:,.1f} a second", highlight=False
            )


def check_finite(vectors: Tensor, name: str, piece: Piece) -> None:
    """Refuse embeddings that no search could order."""
    bad = ~torch.isfinite(vectors).all(1)
    if bad.any():
        raise UserError(
            f"the model's embedding of {name} is not finite for item {piece.start + int(bad.nonzero()[0, 0])}; "
            "evaluate in precision=float32, or take another checkpoint"
        )


def check_undecodable(undecodable: int, rows: int) -> None:
    """Say how many images could not be decoded, and refuse to measure when they are too many."""
    if undecodable > MAX_UNDECODABLE_SHARE * rows:
        raise UserError(
            f"{undecodable} images of {rows} rows could not be decoded; copy the shards again or run gcl prepare again"
        )
    if undecodable and is_main_process():
        Console(stderr=True).print(f"{undecodable} images of {rows} rows could not be decoded; none finds them")


def digest_of_numbers(numbers: np.ndarray, rows: int) -> str:
    """ "all", or a digest of which rows."""
    if len(numbers) == rows and bool((numbers == np.arange(rows)).all()):
        return "all"
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def digest_of_texts(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode())
    return digest.hexdigest()

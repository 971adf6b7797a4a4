"""Embeddings on disk, found by a digest of everything they depend on; half-written ones are gone on with.

FOLDER/image-1f6e0c.../key.json      what the digest is of
                       vectors.npy   (items, dimensions), mapped into memory when it is read
                       done/000017   a chunk that is whole, written after its vectors: how many images were unreadable
                       shards.json   when the shards were last written, as far as it is known
"""

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from gcl.distributed import barrier, from_main_process, is_main_process, rank
from gcl.errors import UserError
from gcl.files import write_text
from gcl.retrieval.embeddings.chunks import chunk_count, chunk_size
from gcl.retrieval.embeddings.joined_reader import Reader
from gcl.retrieval.vectors import ArrayVectors

KEY, VECTORS, DONE, SHARDS = "key.json", "vectors.npy", "done", "shards.json"
MARKS = f"{DONE}/" + "[0-9]" * 6  # six digits: a thousand million items; one that is half written is called .tmp
FORMAT = 1  # of these files; another number, and nothing older is found

StoredType = Literal["float16", "float32"]


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings."""

    folder: Path
    stored_type: StoredType

    def sink(
        self, name: str, key: dict[str, Any], items: int, dimensions: int, shards: Reader | None = None
    ) -> "FileSink":
        """Where the embeddings go that `key` describes, or lie already (all ranks participate).

        Args:
            shards: what they are made of, which is checked to be still what its manifest says.

        Raises:
            UserError: the folder holds a file that is not what its name says, or a shard is another.
        """
        key = {"format": FORMAT, "type": self.stored_type, "items": items, "dimensions": dimensions, **key}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        folder = self.folder / f"{name}-{digest[:24]}"
        if is_main_process():
            prepare(folder, key, (items, dimensions), np.dtype(self.stored_type))
            if shards is not None:
                check_unchanged(shards, folder / SHARDS)
        barrier()
        if not (folder / VECTORS).is_file():
            raise UserError(
                f"process {rank()} does not see {folder}; embeddings.folder must lie on a disk that all see"
            )
        return FileSink(folder, items)


def prepare(folder: Path, key: dict[str, Any], shape: tuple[int, int], dtype: np.dtype) -> None:
    """Make the folder with an empty file of vectors, which takes room as it is filled."""
    vectors = folder / VECTORS
    if not vectors.exists():
        (folder / DONE).mkdir(parents=True, exist_ok=True)
        if any(folder.glob(MARKS)):
            raise UserError(f"{folder} has lost its {VECTORS}; remove the folder")
        write_text(folder / KEY, json.dumps(key, indent=1) + "\n")
        temporary = folder / f"{VECTORS}.{os.getpid()}.tmp"
        np.lib.format.open_memmap(temporary, "w+", dtype, shape).flush()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, vectors)  # never over the file of a command that was quicker
        temporary.unlink()
    found = open_vectors(vectors)
    if found.shape != shape or found.dtype != dtype:
        raise UserError(f"{vectors} holds {found.dtype} {found.shape} where {dtype} {shape} belongs; remove {folder}")


def check_unchanged(shards: Reader, record: Path) -> None:
    """Compare shards that were written again since `record` was made with the digests in their manifest.

    Raises:
        UserError: one is not the file that its manifest describes.
    """
    written = shards.written()
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else written
    shards.check_digests([file for file, time in written.items() if known.get(file) != time])
    write_text(record, json.dumps(written) + "\n")


def open_vectors(path: Path) -> np.memmap:
    """Map the file, so that a page is read when it is used; a change to it would stay in memory.

    Raises:
        UserError: it is none, or cut short.
    """
    try:
        found: np.memmap = np.load(path, mmap_mode="c", allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove {path.parent}") from error


class FileSink:
    """Writes chunks into one file, each marked when it is on disk."""

    def __init__(self, folder: Path, items: int) -> None:
        self.folder, self.items = folder, items

    def missing(self) -> list[int]:
        """The chunks without a mark, as the main process sees them (all ranks participate)."""
        done = {int(mark.name) for mark in self.folder.glob(MARKS)} if is_main_process() else set()
        return from_main_process([chunk for chunk in range(chunk_count(self.items)) if chunk not in done])

    def write(self, chunk: int, vectors: Tensor, undecodable: int) -> None:
        path = self.folder / VECTORS
        mapped = open_vectors(path)
        rows = vectors.cpu().numpy().astype(mapped.dtype)
        with path.open("r+b") as file:
            file.seek(mapped.offset + chunk * chunk_size(self.items) * mapped.strides[0])
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())  # before its mark, or a power cut could leave a mark without vectors
        write_text(self.folder / DONE / f"{chunk:06d}", f"{undecodable}\n")

    def finish(self) -> tuple[ArrayVectors, int]:
        barrier()
        undecodable = sum(int(mark.read_text()) for mark in self.folder.glob(MARKS)) if is_main_process() else 0
        return ArrayVectors(open_vectors(self.folder / VECTORS)), from_main_process(undecodable)

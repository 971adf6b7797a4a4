"""A chunk of a source's rows, written as shards by one worker process: the unit that is done whole or again.

What a chunk gave is in `chunk-000012.json`, written last, with the index of its samples in `chunk-000012-SPLIT.npy`.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gcl.data.fetch.records import ImageSettings, fetch_records
from gcl.data.image_hash import HashMethod, with_image_hashes
from gcl.data.manifest import SPLITS, ScoreRange, Shard
from gcl.data.record import IMAGE_HASH, Record, Refusal, SourceRow, refusal_of
from gcl.data.shard_writer import ShardWriter
from gcl.errors import UserError
from gcl.files import write_text


@dataclass
class SplitSettings:
    """How rows are shared among splits: by the hash of one field, so that rows equal in it stay together."""

    by: str = "title"  # field whose value decides; a row without it is refused
    validation: float = 0.1  # share of the field's values; 1: all rows, of a set that is only evaluated on
    test: float = 0.0  # share of the field's values

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test > 1:
            raise UserError(
                f"split.validation {self.validation} and split.test {self.test} must be shares, together at most 1"
            )

    def split_of(self, record: Record) -> str:
        """A pure function of the field's value.

        Raises:
            UserError: it is an image, or the hash of one, of shards that have none.
        """
        if self.by not in record.fields:
            raise UserError(
                f"split.by={self.by} is no text of {record.origin}; there are {', '.join(record.fields)} (an image is "
                f"split by its hash, NAME{IMAGE_HASH}, except in shards that others wrote)"
            )
        value = " ".join(str(record.fields[self.by]).casefold().split())
        place = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest()) / 2**64
        if place < self.validation:
            return "validation"
        return "test" if place < self.validation + self.test else "train"


@dataclass(frozen=True)
class ChunkRules:
    """What decides the bytes of a chunk's shards, beside its rows."""

    folder: Path | None  # what image paths are relative to
    images: ImageSettings
    split: SplitSettings
    required: list[str]
    image_hash: HashMethod
    max_samples: int  # of a shard
    max_bytes: float  # of a shard


@dataclass
class ChunkResult:
    """What a chunk gave."""

    digest: str  # of its rows, as they came from the source, and of the rules
    kinds: dict[str, str] = field(default_factory=dict)  # field -> "image" or "text"
    shards: dict[str, list[Shard]] = field(default_factory=dict)  # of each split
    scores: dict[str, ScoreRange] = field(default_factory=dict)  # of each split
    refused: list[Refusal] = field(default_factory=list)
    in_place: bool = False  # its shards lie elsewhere, and keep their names


class Chunk(Protocol):
    """What one worker does at a time."""

    @property
    def number(self) -> int: ...  # in the order of the source

    @property
    def units(self) -> int: ...  # of progress

    @property
    def digest(self) -> str: ...  # of what it is made from

    def write(self, folder: Path, rules: ChunkRules, workers: int, advance: Callable[[], None]) -> ChunkResult: ...


@dataclass(frozen=True)
class RowChunk:
    """Consecutive rows of a source."""

    number: int
    first_row: int  # number of its first row in the source; a row's number is its sample's key
    rows: list[SourceRow | Refusal]

    @property
    def units(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            images = row.images if isinstance(row, SourceRow) else {}
            named = {name: [c for c in found if isinstance(c, str)] for name, found in images.items()}
            text = (row.fields, named) if isinstance(row, SourceRow) else (row.reason, row.detail, row.count)
            digest.update(ascii((row.origin, text)).encode())
            for encoded in (c for found in images.values() for c in found if isinstance(c, bytes)):
                digest.update(len(encoded).to_bytes(8))
                digest.update(encoded)
        return digest.hexdigest()

    def write(self, folder: Path, rules: ChunkRules, workers: int, advance: Callable[[], None]) -> ChunkResult:
        """Write the chunk's good rows as shards, and what it gave; `advance` is called for each row."""
        result = ChunkResult(digest_of(self, rules))
        name = chunk_name(self.number)
        writers = {
            split: ShardWriter(folder, f"{name}-{split}", rules.max_samples, rules.max_bytes) for split in SPLITS
        }
        with closing(fetch_records(self.rows, rules.folder, rules.images, workers)) as fetched:
            for key, row in enumerate(fetched, start=self.first_row):
                checked = row if isinstance(row, Refusal) else check_record(row, rules)
                if isinstance(checked, Refusal):
                    result.refused.append(checked)
                else:
                    writers[rules.split.split_of(checked)].write(checked, f"{key:09d}")
                advance()
        for split, writer in writers.items():
            writer.close()
            result.kinds |= writer.kinds
            result.scores[split], result.shards[split] = writer.scores, writer.shards
            write_spans(folder, self.number, split, [span for spans in writer.spans for span in spans.tolist()])
        write_result(folder, self.number, result)
        return result


def digest_of(chunk: Chunk, rules: ChunkRules) -> str:
    """What decides the bytes of a chunk's shards; how images are fetched does not."""
    images = (rules.images.short_side, rules.images.quality, rules.images.max_megabytes)
    kept = (images, rules.split, rules.required, rules.image_hash, rules.max_samples, rules.max_bytes)
    return hashlib.blake2b(f"{chunk.digest} {kept}".encode(), digest_size=16).hexdigest()


def check_record(record: Record, rules: ChunkRules) -> Record | Refusal:
    """The record as it is written, or why it is refused; its texts have been checked, and its images are whole."""
    if refusal := refusal_of(record.fields, record.images, [*rules.required, rules.split.by], record.origin):
        return refusal
    try:
        return with_image_hashes(record, rules.image_hash)
    except OSError as error:
        return Refusal(record.origin, "bad image", str(error))


def chunk_name(number: int) -> str:
    return f"chunk-{number:06d}"


def write_spans(folder: Path, number: int, split: str, spans: list[tuple[int, int]]) -> None:
    """The tar blocks of a chunk's samples of a split."""
    np.save(folder / f"{chunk_name(number)}-{split}.npy", np.array(spans, dtype=np.uint32).reshape(-1, 2))


def load_spans(folder: Path, number: int, split: str) -> np.ndarray:
    """What `write_spans` wrote: (samples, 2) uint32."""
    spans: np.ndarray = np.load(folder / f"{chunk_name(number)}-{split}.npy", allow_pickle=False)
    return spans


def write_result(folder: Path, number: int, result: ChunkResult) -> None:
    write_text(folder / f"{chunk_name(number)}.json", json.dumps(asdict(result)))


def load_result(folder: Path, number: int) -> ChunkResult | None:
    """What a chunk gave; None while it has not been written to its end."""
    path = folder / f"{chunk_name(number)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ChunkResult(
            content["digest"],
            content["kinds"],
            {split: [Shard(**shard) for shard in shards] for split, shards in content["shards"].items()},
            {split: ScoreRange(**scores) for split, scores in content["scores"].items()},
            [Refusal(**refusal) for refusal in content["refused"]],
            content["in_place"],
        )
    return None

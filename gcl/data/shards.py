"""Tar shards in WebDataset's convention with an index, written once and read by sample number.

A folder written by `gcl prepare` holds, for each split, `train-000000.tar` with its index `train-000000.npy` (the byte
offset at which each sample starts, and the end of the last one) and one `manifest.json` for all splits.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from gcl.data.record import SCORE, Record
from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import nearest

MANIFEST = "manifest.json"
IMAGE, TEXT = "image", "text"  # what a field can be


@dataclass(frozen=True)
class Shard:
    """One tar file: its name in the folder, how many samples and bytes it holds, and its digest."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass
class ScoreRange:
    """How many rows have a score and how many have none, and the range of those there are."""

    rows: int = 0
    missing: int = 0
    min: float | None = None
    max: float | None = None

    def count(self, score: str | float | None) -> None:
        if score is None or isinstance(score, str):
            self.missing += 1
            return
        self.rows += 1
        self.min = score if self.min is None else min(self.min, score)
        self.max = score if self.max is None else max(self.max, score)


class ShardWriter:
    """Writes the records of one split into numbered shards of at most `samples_per_shard`."""

    def __init__(self, folder: Path, split: str, samples_per_shard: int) -> None:
        self.folder, self.split, self.samples_per_shard = folder, split, samples_per_shard
        self.shards: list[Shard] = []
        self.samples = 0
        self.kinds: dict[str, str] = {}  # field -> "image" or "text"
        self.scores = ScoreRange()
        self._tar: webdataset.TarWriter | None = None
        self._in_shard = 0

    def write(self, record: Record) -> None:
        if self._tar is None:
            # mtime fixed: the same rows give the same bytes.
            self._tar = webdataset.TarWriter(str(self._path()), mtime=0, user="gcl", group="gcl")
        sample: dict[str, Any] = {
            "__key__": f"{self.samples:09d}",
            "json": json.dumps(record.fields, ensure_ascii=False, sort_keys=True).encode(),
        }
        sample |= {f"{name}.{image_suffix(encoded)}": encoded for name, encoded in sorted(record.images.items())}
        self._tar.write(sample)
        self.kinds |= {name: TEXT for name in record.fields} | {name: IMAGE for name in record.images}
        self.scores.count(record.fields.get(SCORE))
        self.samples += 1
        self._in_shard += 1
        if self._in_shard == self.samples_per_shard:
            self.close()

    def close(self) -> None:
        """End the shard being written, and index it."""
        if self._tar is None:
            return
        self._tar.close()
        path = self._path()
        np.save(path.with_suffix(".npy"), sample_offsets(path))
        self.shards.append(Shard(path.name, self._in_shard, path.stat().st_size, file_sha256(path)))
        self._tar, self._in_shard = None, 0

    def _path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.shards):06d}.tar"


def image_suffix(encoded: bytes) -> str:
    """jpg, png, webp or gif, by the file's first bytes."""
    if encoded[:4] == b"\x89PNG":
        return "png"
    if encoded[8:12] == b"WEBP":
        return "webp"
    return "gif" if encoded[:4] == b"GIF8" else "jpg"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample_offsets(tar: Path) -> np.ndarray:
    """Where each sample starts in a tar, and where the last one ends: (samples + 1,) int64 byte offsets."""
    offsets: list[int] = []
    key = None
    with tarfile.open(tar) as archive:
        for member in archive:
            member_key = member.name.split(".", 1)[0]
            if member_key != key:
                offsets.append(member.offset)
                key = member_key
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return np.array([*offsets, end] if offsets else [0], dtype=np.int64)


def write_manifest(folder: Path, writers: dict[str, ShardWriter], facts: dict[str, Any]) -> None:
    """Write manifest.json: the fields, the scores and shards of each split, and `facts` on where they came from."""
    fields = {name: kind for writer in writers.values() for name, kind in writer.kinds.items()}
    splits = {split: [asdict(shard) for shard in writer.shards] for split, writer in writers.items()}
    scores = {split: asdict(writer.scores) for split, writer in writers.items()}
    content = {**facts, "fields": fields, "scores": scores, "splits": splits}
    write_text(folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


class ShardReader:
    """The samples of one split, read by number from any process.

    Raises:
        UserError: no manifest, no such split, or a shard that is missing or of another size than the manifest says.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        manifest = self.folder / MANIFEST
        if self.folder.is_file():
            raise UserError(f"data path {self.folder} is a file; give the folder that gcl prepare wrote")
        if not manifest.is_file():
            raise UserError(
                f"{self.folder} holds no {MANIFEST}; write shards there with `gcl prepare source=catalog "
                f"source.path=DIR output_dir={self.folder}`"
            )
        content = read_manifest(manifest)
        self.kinds, splits = content.kinds, content.splits
        self.scores = content.scores.get(split)  # None: the shards do not say
        if not splits.get(split):
            raise UserError(
                f"split {split!r} of {self.folder} is empty or absent; it has "
                f"{', '.join(name for name in splits if splits[name]) or 'no rows at all'}"
            )
        self.shards = splits[split]
        for shard in self.shards:
            self._check(shard)
        self._offsets = [read_offsets((self.folder / s.file).with_suffix(".npy"), s.samples) for s in self.shards]
        self._starts = np.cumsum([0] + [shard.samples for shard in self.shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Record:
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        start, end = self._offsets[shard][number - self._starts[shard] :][:2]
        path = self.folder / self.shards[shard].file
        try:
            with path.open("rb", buffering=0) as file:
                span = os.pread(file.fileno(), int(end - start), int(start))
            return record_from_tar(span, f"{self.split}:{number}")
        except (OSError, tarfile.TarError, ValueError, IndexError) as error:
            raise UserError(
                f"sample {number} of split {self.split} cannot be read from {path} ({error}); "
                "copy the shard again or run gcl prepare again"
            ) from error

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def split_fields(self, fields: list[str], remedy: str = "") -> tuple[list[str], list[str]]:
        """The image fields and the text fields among `fields`.

        Args:
            remedy: what to do where one is missing.

        Raises:
            UserError: a field that no row has, naming the nearest.
        """
        for name in fields:
            if name not in self.kinds:
                raise UserError(
                    f"field {name!r} is in no row of {self.folder}{nearest(name, self.kinds)}; there are "
                    f"{', '.join(self.kinds)}{remedy and f' ({remedy})'}"
                )
        images = [name for name in fields if self.kinds[name] == IMAGE]
        return images, [name for name in fields if self.kinds[name] == TEXT]

    @property
    def fingerprint(self) -> str:
        """A digest of the split's content and order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]

    def _check(self, shard: Shard) -> None:
        path = self.folder / shard.file
        if path.parent.resolve() != self.folder.resolve():
            raise UserError(
                f"shard {shard.file!r} of {self.folder / MANIFEST} lies outside its folder; run gcl prepare again"
            )
        for part in (path, path.with_suffix(".npy")):
            if not part.is_file():
                raise UserError(
                    f"shard {part} is missing, but {MANIFEST} lists it; copy it back or run gcl prepare again"
                )
        if path.stat().st_size != shard.bytes:
            raise UserError(
                f"shard {path} has {path.stat().st_size} bytes where {MANIFEST} says {shard.bytes}; "
                "copy it again or run gcl prepare again"
            )


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says that readers need."""

    kinds: dict[str, str]  # field -> "image" or "text"
    splits: dict[str, list[Shard]]
    scores: dict[str, ScoreRange]  # of each split


def read_manifest(manifest: Path) -> Manifest:
    try:
        content = json.loads(manifest.read_text())
        splits = {split: [Shard(**shard) for shard in shards] for split, shards in content["splits"].items()}
        scores = {split: ScoreRange(**found) for split, found in content.get("scores", {}).items()}
        return Manifest(dict(content["fields"]), splits, scores)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} cannot be read ({error}); run gcl prepare again") from error


def read_offsets(index: Path, samples: int) -> np.ndarray:
    """What `sample_offsets` found: (samples + 1,) int64."""
    try:
        offsets: np.ndarray = np.load(index, allow_pickle=False)
        if offsets.shape != (samples + 1,):
            raise ValueError(f"it has {offsets.size} offsets for {samples} samples")
        return offsets
    except (ValueError, EOFError) as error:
        raise UserError(f"{index} cannot be read ({error}); copy it again or run gcl prepare again") from error


def record_from_tar(span: bytes, origin: str) -> Record:
    """The record whose members are the tar entries in `span`."""
    fields: dict[str, str | float] = {}
    images: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(span + b"\0" * 2 * tarfile.BLOCKSIZE), mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                raise ValueError(f"{member.name} is no regular file")
            field, _, _ = member.name.split(".", 1)[1].rpartition(".")
            if field:
                images[field] = content.read()
            else:
                fields = json.load(content)
    if not isinstance(fields, dict):
        raise ValueError("its JSON is no object")
    return Record(fields, images, origin)

"""Rows of shards as they are: what cannot be read is a finding here, not an error."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcl.data.manifest import IMAGE, MANIFEST, TEXT, Manifest, Shard, index_file, manifest_from_json
from gcl.data.record import IMAGE_HASH, ITEM_ID, SCORE, Record
from gcl.data.shards import read_index, record_from_tar
from gcl.data.storage.folders import build_storage
from gcl.data.tar import BLOCK
from gcl.errors import UserError

PART = 1000  # samples that one worker looks at in a turn, all of one shard
# What a sample with broken bytes, broken JSON or JSON of an unexpected form raises.
BROKEN = (UserError, OSError, tarfile.TarError, ValueError, TypeError, AttributeError, LookupError, RecursionError)


@dataclass(frozen=True)
class Unreadable:
    """A sample that cannot be read."""

    shard: str  # the tar's name
    number: int  # of all rows
    reason: str
    is_out_of_reach: bool  # its bytes cannot be had, after trying again; else they are no sample


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one shard."""

    split: str
    shard: Shard
    first: int  # of all rows
    stop: int


@dataclass(frozen=True)
class Described:
    """What the manifest says: the part that readers need, and what was refused when the shards were written."""

    manifest: Manifest
    refused: dict[str, int]  # reason -> rows


class SplitRows:
    """The samples of one split by number, read as training reads them.

    Training's own reader refuses a split for one shard that is missing or cut off; here the others still count.

    Raises:
        UserError: there is no such split, or its index cannot be read.
    """

    def __init__(self, folder: str, split: str, manifest: Manifest) -> None:
        own = build_storage(folder)
        self.split, self.members = split, manifest.members
        self.storage = build_storage(manifest.shards_folder) if manifest.shards_folder else own
        self.shards = manifest.splits.get(split, [])
        if not self.shards:
            there = ", ".join(name for name, shards in manifest.splits.items() if shards) or "no rows at all"
            raise UserError(f"split {split!r} of {own.place} is empty or absent; it has {there}")
        self.starts = np.cumsum([0] + [shard.samples for shard in self.shards])
        self._spans = read_index(own.local_file(index_file(split)), len(self))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def __getitem__(self, number: int) -> Record:
        start, end = (self._spans[number].astype(np.int64) * BLOCK).tolist()
        span = self.storage.read(self.shard_of(number).file, start, end)
        return record_from_tar(span, f"{self.split}:{number}", self.members)

    def shard_of(self, number: int) -> Shard:
        return self.shards[int(np.searchsorted(self.starts, number, side="right")) - 1]

    def read_ahead(self, first: int, stop: int) -> None:
        """Have these samples of one shard fetched in the background where they are remote."""
        start, end = int(self._spans[first, 0]) * BLOCK, int(self._spans[stop - 1, 1]) * BLOCK
        self.storage.prefetch([(self.shard_of(first).file, start, end)])

    def problem_of(self, shard: Shard) -> str:
        """What is wrong with a shard as a file; nothing where it is whole."""
        try:
            size = self.storage.size(shard.file)
        except UserError as error:
            return str(error)
        if size is None:
            return f"{shard.file} is missing"
        return "" if size == shard.bytes else f"{shard.file} has {size:,} bytes where {shard.bytes:,} were written"


class Rows:
    """The rows of the splits that are looked at, numbered through.

    Raises:
        UserError: no manifest, or no such split.
    """

    def __init__(self, folder: str, split: str | None) -> None:
        described = describe(folder)
        self.folder, self.refused = folder, described.refused
        self.splits = [split] if split else [name for name, shards in described.manifest.splits.items() if shards]
        # A folder without any row is refused for its training split.
        self.readers = [SplitRows(folder, name, described.manifest) for name in self.splits or ["train"]]
        self.starts = np.cumsum([0] + [len(reader) for reader in self.readers])
        kinds = described.manifest.kinds
        self.image_fields = [name for name, kind in kinds.items() if kind == IMAGE]
        own = {ITEM_ID, SCORE, *(f"{name}{IMAGE_HASH}" for name in self.image_fields)}
        self.text_fields = [name for name, kind in kinds.items() if kind == TEXT and name not in own]
        self.hash_fields = [name for name in kinds if name in own - {ITEM_ID, SCORE}]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, number: int) -> Record | Unreadable:
        place = self._place_of(number)
        reader, local = self.readers[place], number - int(self.starts[place])
        try:
            record = reader[local]
            if ITEM_ID not in record.fields:
                raise ValueError(f"it has no {ITEM_ID}")
            for value in record.fields.values():
                str(value).encode()  # half of a surrogate pair is no text, and would stop a run where it is hashed
            return record
        except BROKEN as error:
            shard = reader.shard_of(local)
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            where = f"row {local} of {reader.split}, in {shard.file}"
            return Unreadable(shard.file, number, f"{where}: {reason}", isinstance(error, UserError))

    def split_of(self, number: int) -> str:
        return self.splits[self._place_of(number)]

    def reader_of(self, part: Part) -> SplitRows:
        return self.readers[self.splits.index(part.split)]

    def read_ahead(self, part: Part) -> None:
        """Have a part fetched in the background where it is remote."""
        start = int(self.starts[self.splits.index(part.split)])
        self.reader_of(part).read_ahead(part.first - start, part.stop - start)

    def parts(self) -> Iterator[Part]:
        """All rows in order, in pieces of one shard each."""
        first = 0
        for reader in self.readers:
            for shard in reader.shards:
                for start in range(0, shard.samples, PART):
                    yield Part(reader.split, shard, first + start, first + min(start + PART, shard.samples))
                first += shard.samples

    def _place_of(self, number: int) -> int:
        """The place of a row's split."""
        return int(np.searchsorted(self.starts, number, side="right")) - 1


def describe(folder: str) -> Described:
    """Read manifest.json.

    Raises:
        UserError: there is none, or it is broken.
    """
    storage = build_storage(folder)
    if storage.size(MANIFEST) is None:
        raise UserError(
            f"{storage.place} holds no {MANIFEST}; write shards there with `gcl prepare source=catalog source.path=DIR "
            "output_dir=DIR`"
        )
    text = storage.read_all(MANIFEST)
    manifest = manifest_from_json(text, f"{storage.place}/{MANIFEST}")
    refused: Any = json.loads(text).get("refused")
    counts = refused.items() if isinstance(refused, dict) else []
    return Described(manifest, {str(reason): count for reason, count in counts if isinstance(count, int)})


def text_of(record: Record, field: str) -> str:
    """A field's text, stripped; nothing where the row has none."""
    value = record.fields.get(field)
    return "" if value is None else str(value).strip()

"""Tar shards read by sample number, from a local folder or a bucket.

A folder written by `gcl prepare` holds `manifest.json` for all splits and, for each split, tars such as
`train-000000.tar` and their index `train.index.npy`.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gcl.data.manifest import IMAGE, MANIFEST, TEXT, index_file, manifest_from_json
from gcl.data.record import ITEM_ID, SCORE, Record, is_score
from gcl.data.storage.folders import CacheSettings, build_storage, is_remote
from gcl.data.tar import BLOCK, TAR_ERRORS, CheckedMember, open_tar, split_name
from gcl.errors import UserError
from gcl.files import file_sha256
from gcl.parts import nearest

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif"})
SAMPLED = 10_000  # samples whose mean size is taken for that of all
HEAD = 8  # tar blocks in which a product's JSON and its header usually fit


class ShardReader:
    """The samples of one split, read by number from any process.

    Raises:
        UserError: no manifest, no such split, or a shard that is missing or of another size than the manifest says.
    """

    def __init__(self, folder: str | Path, split: str, cache: CacheSettings | None = None) -> None:
        cache = cache or CacheSettings()
        self.folder, self.split = str(folder), split
        if not is_remote(self.folder):
            check_folder(Path(folder).expanduser())
        own = build_storage(folder, cache)
        if own.size(MANIFEST) is None:
            raise UserError(
                f"{own.place} holds no {MANIFEST}; write shards there with `gcl prepare source=catalog "
                "source.path=CATALOGUE output_dir=SHARDS`"
            )
        manifest = manifest_from_json(own.read_all(MANIFEST), f"{own.place}/{MANIFEST}")
        if manifest.shards_folder and is_remote(self.folder):
            raise UserError(
                f"{own.place} is the index of shards elsewhere; such an index is read from a local disk only"
            )
        self.storage = build_storage(manifest.shards_folder, cache) if manifest.shards_folder else own
        self.kinds, self.members = manifest.kinds, manifest.members
        self.scores = manifest.scores.get(split)  # None: the shards do not say
        self.shards = manifest.splits.get(split, [])
        if not self.shards:
            raise UserError(
                f"split {split!r} of {own.place} is empty or absent; it has "
                f"{', '.join(name for name, shards in manifest.splits.items() if shards) or 'no rows at all'}"
            )
        self.storage.expect({shard.file: shard.bytes for shard in self.shards})
        self._starts = np.cumsum([0] + [shard.samples for shard in self.shards])
        self._spans = read_index(own.local_file(index_file(split)), len(self))

    @property
    def is_remote(self) -> bool:
        return is_remote(self.storage.place)

    @property
    def bytes_per_sample(self) -> float:
        """The mean, as they lie in the tars."""
        ends = self._spans[:: max(1, len(self) // SAMPLED)].astype(np.int64)
        return float((ends[:, 1] - ends[:, 0]).mean() * BLOCK)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Record:
        shard = self.shards[self._shard_of(number)]
        start, end = self._spans[number].tolist()
        try:
            span = self.storage.read(shard.file, start * BLOCK, end * BLOCK)
            return record_from_tar(span, f"{self.split}:{number}", self.members)
        except (OSError, RecursionError, *TAR_ERRORS) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"sample {number} of split {self.split} cannot be read from {self.storage.place}/{shard.file} "
                f"({error}); copy the shard again or run gcl prepare again"
            ) from error

    def __iter__(self) -> Iterator[Record]:
        return (self[number] for number in range(len(self)))

    def fields(self, number: int) -> dict[str, str | float]:
        """A sample's fields without its images, which are not read where its JSON comes first, as gcl writes it."""
        start, end = self._spans[number].tolist()
        if self.members is None and not self.is_remote:
            head = self.storage.read(
                self.shards[self._shard_of(number)].file, start * BLOCK, min(end, start + HEAD) * BLOCK
            )
            found = fields_from_head(head)
            if found is not None:
                return found
        return self[number].fields

    def read_ahead(self, runs: list[tuple[int, int]]) -> None:
        """Have these runs of samples, each from and to a number, fetched in the background where they are remote."""
        for first, last in runs:
            shard = self._shard_of(first)
            while first < last:
                stop = min(last, int(self._starts[shard + 1]))
                start, end = int(self._spans[first, 0]) * BLOCK, int(self._spans[stop - 1, 1]) * BLOCK
                self.storage.prefetch([(self.shards[shard].file, start, end)])
                first, shard = stop, shard + 1

    def _shard_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

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

    def written(self) -> dict[str, int]:
        """When each shard was last written, in nanoseconds; nothing of remote ones."""
        if self.is_remote:
            return {}
        return {shard.file: (Path(self.storage.place) / shard.file).stat().st_mtime_ns for shard in self.shards}

    def check_digests(self, files: list[str]) -> None:
        """Read these local shards whole.

        Raises:
            UserError: one is not the file that the manifest describes.
        """
        for shard in self.shards:
            if shard.file in files and file_sha256(Path(self.storage.place) / shard.file) != shard.sha256:
                raise UserError(
                    f"{self.storage.place}/{shard.file} is not the shard that {MANIFEST} describes (another sha256); "
                    "copy it again or run gcl prepare again"
                )

    @property
    def fingerprint(self) -> str:
        """A digest of the split's content and order."""
        digest = hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode())
        digest.update(np.ascontiguousarray(self._spans).data)
        digest.update(json.dumps(self.members).encode())
        return digest.hexdigest()[:16]


def check_folder(folder: Path) -> None:
    """Say more of a folder that holds no shards."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    if folder.is_file():
        raise UserError(f"data path {folder} is a file; give the folder that gcl prepare wrote")
    if not folder.exists() and unfinished.exists():
        raise UserError(f"{folder} is not finished; the same gcl prepare goes on with what is in {unfinished}")
    if not folder.exists():
        raise UserError(f"data path {folder} does not exist; give the folder that gcl prepare wrote")


def read_index(index: Path, samples: int) -> np.ndarray:
    """The tar blocks of each sample, from and to, left on disk: (samples, 2) uint32."""
    try:
        spans: np.ndarray = np.load(index, mmap_mode="r", allow_pickle=False)
        if spans.shape != (samples, 2) or spans.dtype != np.uint32:
            raise ValueError(f"it holds {spans.dtype} {spans.shape} where uint32 ({samples}, 2) belongs")
        return spans
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{index} cannot be read ({error}); copy it again or run gcl prepare again") from error


def record_from_tar(span: bytes, origin: str, members: dict[str, str] | None = None) -> Record:
    """The record whose members are the tar entries in `span`.

    Args:
        members: of a shard that others wrote: the field for which a member's suffix or a key of its JSON stands, such
            as {jpg: image, txt: title, json.caption: title}. None: gcl's own, whose images are KEY.FIELD.SUFFIX.

    Raises:
        ValueError: it is no record.
    """
    fields: dict[str, str | float] = {}
    images: dict[str, bytes] = {}
    key = ""
    with open_tar(io.BytesIO(span + b"\0" * 2 * BLOCK)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None  # a link would be followed
            if content is None:
                if members is not None:
                    continue
                raise ValueError(f"{member.name} is no regular file")
            key, suffix = split_name(member.name)
            field = suffix.rpartition(".")[0] if members is None else members.get(suffix.lower(), "")
            if suffix.lower() == "json":
                fields |= json_fields(json.load(content), members)
            elif members is None or suffix.lower().rpartition(".")[2] in IMAGE_SUFFIXES:
                images |= {field: content.read()} if field else {}
            elif field:
                fields[field] = content.read().decode(errors="replace").strip()
    if members is not None:
        fields.setdefault(ITEM_ID, key)
    return Record(fields, images, origin)


def fields_from_head(head: bytes) -> dict[str, str | float] | None:
    """The fields that the first member of a sample holds, or None where it is no whole JSON object."""
    try:
        member = CheckedMember.frombuf(head[:BLOCK], "utf-8", "strict")
        if not member.isreg() or not member.name.endswith(".json") or BLOCK + member.size > len(head):
            return None
        content = json.loads(head[BLOCK : BLOCK + member.size])
    except TAR_ERRORS:
        return None
    return content if isinstance(content, dict) else None


def json_fields(content: Any, members: dict[str, str] | None) -> dict[str, str | float]:
    """The fields in a sample's JSON; of one that others wrote, its texts and numbers."""
    if not isinstance(content, dict):
        raise ValueError("its JSON is no object")
    if members is None:
        return content
    plain = {name: value for name, value in content.items() if isinstance(value, str | int | float)}
    return {
        members.get(f"json.{name}", name): value if name == SCORE and is_score(value) else str(value)
        for name, value in plain.items()
    }

"""Shards that others wrote, in WebDataset's convention: indexed where they lie, never rewritten.

gcl prepare source=webdataset source.path=/data/laion 'source.fields={title: json.caption}' output_dir=shards/laion
"""

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import fsspec

from gcl.data.manifest import IMAGE, SPLITS, TEXT, Manifest, ScoreRange, Shard
from gcl.data.prepare.chunk import ChunkResult, ChunkRules, digest_of, write_result, write_spans
from gcl.data.record import SCORE, Record, Refusal, image_problem, refusal_of
from gcl.data.shards import record_from_tar
from gcl.data.storage.folders import CacheSettings, Storage, build_storage, is_remote
from gcl.data.tar import BLOCK, TAR_ERRORS, open_tar, sample_spans, split_name
from gcl.errors import UserError
from gcl.parts import nearest

DEFAULT_FIELDS = {"image": "jpg;jpeg;png;webp", "title": "txt"}
NUMBERED = re.compile(r"\{(\d+)\.\.(\d+)\}")  # as in shard-{000000..000123}.tar
PIECE_BYTES = 16 << 20  # read at once
HEAD_BYTES = 4 << 20  # of the first shard, in which its first sample is looked for
DETAIL = 200  # characters of a refusal


class WebDatasetSource:
    """Tars of samples such as `key.jpg`, `key.txt`, `key.json`, in one folder or bucket.

    A sample's JSON gives a field for each of its texts and numbers, by its own name. A sample without an item_id gets
    its key for one. Duplicates are not looked for, and images get no hash: nothing is written beside the index.

    Raises:
        UserError: no such folder, or no tar in it.
    """

    folder = None  # it brings its images

    def __init__(
        self,
        path: str,  # folder of tars, or some of them: /data/x, s3://bucket/x, /data/x/train-{000000..000123}.tar
        fields: dict[str, str] | None = None,  # field: member's suffix or json.KEY, such as {title: json.caption}
    ) -> None:
        place, pattern = folder_and_pattern(path)
        self.place = place if is_remote(place) else str(Path(place).expanduser().resolve())
        self.files = matching_tars(self.place, pattern)
        if not self.files:
            raise UserError(
                f"{path} holds no .tar; give the folder that the shards lie in, or NAME-{{000000..000123}}.tar"
            )
        named = DEFAULT_FIELDS | (fields or {})
        self.members = {suffix: name for name, suffixes in named.items() for suffix in lowered(suffixes)}
        self._check_fields(fields or {})

    def _check_fields(self, fields: dict[str, str]) -> None:
        """Refuse a field that no sample in the first shard's beginning has, naming what they have."""
        storage = build_storage(self.place, CacheSettings())
        found = members_of(storage.read(self.files[0], 0, min(storage.size(self.files[0]) or 0, HEAD_BYTES)))
        for name, suffixes in fields.items():
            if found and not set(lowered(suffixes)) & set(found):
                raise UserError(
                    f"fields.{name} is {suffixes!r}, which the first samples of {self.files[0]} do not have"
                    f"{nearest(suffixes, found)}; they have {', '.join(found)}"
                )

    def __len__(self) -> int:
        """Shards: what lies in them is known when they have been read."""
        return len(self.files)

    def chunks(self) -> "Iterator[ForeignShard]":
        for number, file in enumerate(self.files):
            yield ForeignShard(number, self.place, file, self.members)

    def manifest(self) -> Manifest:
        """An empty one that says where the shards lie and what their members are."""
        return Manifest(shards_folder=self.place, members=self.members)


def lowered(suffixes: str) -> list[str]:
    """jpg;PNG as jpg and png, which is how WebDataset's readers compare; keys of a JSON are kept as they are."""
    return [suffix if suffix.startswith("json.") else suffix.lower() for suffix in suffixes.split(";")]


def members_of(head: bytes) -> list[str]:
    """The suffixes of the samples in the beginning of a tar, and json.KEY for each key of their JSON.

    Nothing where that cannot be told: damage is found when the shard is read.
    """
    found: dict[str, None] = {}
    with suppress(RecursionError, *TAR_ERRORS), open_tar(io.BytesIO(head)) as archive:
        for member in archive:
            if not member.isfile() or member.size < 0:
                continue
            suffix = split_name(member.name)[1].lower()
            found[suffix] = None
            content = archive.extractfile(member) if suffix == "json" else None
            if content is not None and isinstance(fields := json.load(content), dict):
                found |= {f"json.{name}": None for name in fields}
    return list(found)


def folder_and_pattern(path: str) -> tuple[str, str]:
    """The folder, and which files in it: a pattern with one `{000..123}` or `*`."""
    folder, _, last = path.rstrip("/").rpartition("/")
    if last.endswith(".tar") or "*" in last:
        return folder or ("." if not path.startswith("/") else "/"), last
    return path, "*.tar"


def matching_tars(place: str, pattern: str) -> list[str]:
    """The names of the tars in a folder that match, in order."""
    try:
        files, root = fsspec.url_to_fs(place)
        names = sorted(str(name).rstrip("/").rpartition("/")[2] for name in files.ls(root, detail=False))
    except Exception as error:  # each kind of store has its own
        raise UserError(
            f"{place} cannot be listed ({' '.join(str(error).split())[:DETAIL]}); give a folder of tars"
        ) from error
    if found := NUMBERED.search(pattern):
        numbers = range(int(found[1]), int(found[2]) + 1)
        wanted = {NUMBERED.sub(f"{number:0{len(found[1])}d}", pattern) for number in numbers}
        if missing := sorted(wanted - set(names)):
            raise UserError(f"{place} has no {missing[0]} ({len(missing)} of {len(wanted)} shards are missing)")
        return [name for name in names if name in wanted]
    shape = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    return [name for name in names if shape.fullmatch(name) and name.endswith(".tar")]


@dataclass(frozen=True)
class ForeignShard:
    """One tar that is read through, checked and indexed."""

    number: int
    place: str
    file: str
    members: dict[str, str]

    @property
    def units(self) -> int:
        return 1

    @property
    def digest(self) -> str:
        size = build_storage(self.place, CacheSettings()).size(self.file)
        changed = None if is_remote(self.place) else (Path(self.place) / self.file).stat().st_mtime_ns
        return hashlib.blake2b(repr((self.file, size, changed, self.members)).encode(), digest_size=16).hexdigest()

    def write(self, folder: Path, rules: ChunkRules, workers: int, advance: Callable[[], None]) -> ChunkResult:
        """Write the index of the shard's good samples."""
        result = ChunkResult(digest_of(self, rules), in_place=True)
        spans: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
        scores = {split: ScoreRange() for split in SPLITS}
        with tempfile.TemporaryFile() as tar:
            digest, size = copy(build_storage(self.place, CacheSettings()), self.file, tar)
            for checked, span in self._samples(tar, rules):
                if isinstance(checked, Refusal):
                    result.refused.append(checked)
                    continue
                split = rules.split.split_of(checked)
                spans[split].append(span)
                scores[split].count(checked.fields.get(SCORE))
                result.kinds |= {name: TEXT for name in checked.fields} | {name: IMAGE for name in checked.images}
        for split in SPLITS:
            write_spans(folder, self.number, split, spans[split])
            result.shards[split] = [Shard(self.file, len(spans[split]), size, digest)] if spans[split] else []
        result.scores = scores
        write_result(folder, self.number, result)
        advance()
        return result

    def _samples(self, tar: IO[bytes], rules: ChunkRules) -> Iterator[tuple[Record | Refusal, tuple[int, int]]]:
        try:
            for key, span in list_until_damaged(tar):
                origin = f"{self.file}:{key}"
                tar.seek(span[0] * BLOCK)
                try:
                    record = record_from_tar(tar.read((span[1] - span[0]) * BLOCK), origin, self.members)
                except (RecursionError, *TAR_ERRORS) as error:
                    yield Refusal(origin, "bad sample", str(error)[:DETAIL]), span
                    continue
                yield check_foreign(record, rules), span
        except tarfile.TarError as error:
            yield Refusal(self.file, "damaged tar", f"samples behind the damage are lost: {error}"), (0, 0)


def list_until_damaged(tar: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The spans of a tar; the error of a damaged one comes behind them, so that reading between does not disturb."""
    spans: list[tuple[str, tuple[int, int]]] = []
    damage: tarfile.TarError | None = None
    try:
        for found in sample_spans(tar):
            spans.append(found)
    except tarfile.TarError as error:
        damage = error
    yield from spans
    if damage is not None:
        raise damage


def check_foreign(record: Record, rules: ChunkRules) -> Record | Refusal:
    for name, encoded in record.images.items():
        if problem := image_problem(encoded):
            return Refusal(record.origin, "bad image", f"{name}: {problem}")
    refusal = refusal_of(record.fields, record.images, [*rules.required, rules.split.by], record.origin)
    return refusal or record


def copy(storage: Storage, file: str, to: IO[bytes]) -> tuple[str, int]:
    """Copy a shard to a file on this machine; its sha256 and its bytes."""
    size = storage.size(file)
    if size is None:
        raise UserError(f"{storage.place}/{file} is gone")
    digest = hashlib.sha256()
    for start in range(0, size, PIECE_BYTES):
        piece = storage.read(file, start, min(start + PIECE_BYTES, size))
        digest.update(piece)
        to.write(piece)
    return digest.hexdigest(), size

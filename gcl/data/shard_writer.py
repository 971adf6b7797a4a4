"""Records become tar shards in WebDataset's convention, always the same bytes for the same records."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from gcl.data.manifest import IMAGE, TEXT, Manifest, ScoreRange, Shard, index_file, write_manifest
from gcl.data.record import SCORE, Record
from gcl.data.tar import BLOCK, sample_spans
from gcl.files import file_sha256


class ShardWriter:
    """Writes records into `NAME-000000.tar`, `NAME-000001.tar`, ..., a new one when either limit is reached."""

    def __init__(self, folder: Path, name: str, max_samples: int, max_bytes: float) -> None:
        self.folder, self.name, self.max_samples, self.max_bytes = folder, name, max_samples, max_bytes
        self.shards: list[Shard] = []
        self.spans: list[np.ndarray] = []  # of each shard's samples
        self.kinds: dict[str, str] = {}  # field -> "image" or "text"
        self.scores = ScoreRange()
        self._tar: webdataset.TarWriter | None = None
        self._samples = self._bytes = 0  # of the shard being written

    def write(self, record: Record, key: str) -> None:
        if self._tar is None:
            # mtime fixed: the same rows give the same bytes.
            self._tar = webdataset.TarWriter(str(self._path()), mtime=0, user="gcl", group="gcl")
        sample: dict[str, Any] = {
            "__key__": key,
            "json": json.dumps(record.fields, ensure_ascii=False, sort_keys=True).encode(),
        }
        sample |= {f"{name}.{image_suffix(encoded)}": encoded for name, encoded in sorted(record.images.items())}
        self._tar.write(sample)
        self._bytes += sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for content in list(sample.values())[1:])
        self.kinds |= {name: TEXT for name in record.fields} | {name: IMAGE for name in record.images}
        self.scores.count(record.fields.get(SCORE))
        self._samples += 1
        if self._samples == self.max_samples or self._bytes >= self.max_bytes:
            self.close()

    def close(self) -> None:
        """End the shard being written, and index it."""
        if self._tar is None:
            return
        self._tar.close()
        path = self._path()
        with path.open("rb") as file:
            self.spans.append(np.array([span for _, span in sample_spans(file)], dtype=np.uint32))
        self.shards.append(Shard(path.name, self._samples, path.stat().st_size, file_sha256(path)))
        self._tar, self._samples, self._bytes = None, 0, 0

    def _path(self) -> Path:
        return self.folder / f"{self.name}-{len(self.shards):06d}.tar"


def write_shards(
    folder: Path, splits: dict[str, Iterable[Record]], max_samples: int = 1000, facts: dict[str, Any] | None = None
) -> None:
    """Write records as a folder of shards, as they are: unchecked, in this process.

    Args:
        splits: name -> its records.
        facts: what the manifest says beside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(splits={})
    for split, records in splits.items():
        writer = ShardWriter(folder, split, max_samples, float("inf"))
        for number, record in enumerate(records):
            writer.write(record, f"{number:09d}")
        writer.close()
        manifest.kinds |= writer.kinds
        manifest.scores[split], manifest.splits[split] = writer.scores, writer.shards
        if writer.spans:
            np.save(folder / index_file(split), np.concatenate(writer.spans))
    write_manifest(folder, manifest, facts or {})


def image_suffix(encoded: bytes) -> str:
    """jpg, png, webp or gif, by the file's first bytes."""
    if encoded[:4] == b"\x89PNG":
        return "png"
    if encoded[8:12] == b"WEBP":
        return "webp"
    return "gif" if encoded[:4] == b"GIF8" else "jpg"

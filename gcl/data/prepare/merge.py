"""The chunks of a preparation become one folder of shards: numbered, indexed, with one manifest."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.format import open_memmap

from gcl.data.manifest import SPLITS, Manifest, ScoreRange, Shard, index_file, write_manifest
from gcl.data.prepare.chunk import ChunkResult, load_result, load_spans
from gcl.errors import UserError
from gcl.files import file_sha256

REFUSED = "refused.jsonl"
PLAN, MERGED = "plan.json", "merged.json"  # what is prepared; the same, once its chunks are merged


def merge_chunks(
    folder: Path, chunks: set[int], max_refused_share: float, facts: dict[str, Any], manifest: Manifest
) -> None:
    """Give the shards their names, and write the index, the manifest and the list of what was refused.

    Args:
        manifest: to be filled in; it says already where the shards lie.

    A merge that was killed is done again: what it renamed has the names that it gets again.

    Raises:
        UserError: more rows were refused than allowed, or a shard is gone.
    """
    manifest.scores = {split: ScoreRange() for split in SPLITS}
    renamed: list[tuple[Shard, str]] = []  # a chunk's shards, and their own names
    refused: Counter[str] = Counter()
    # Half a surrogate pair, which UTF-8 cannot hold, is written as JSON escapes it.
    with (folder / REFUSED).open("w", encoding="utf-8", errors="backslashreplace") as listing:
        for result in results(folder, chunks):
            refused += list_refused(result, listing)
            manifest.kinds |= result.kinds
            for split in SPLITS:
                manifest.scores[split].add(result.scores[split])
                for shard in result.shards[split]:
                    name = shard.file if result.in_place else f"{split}-{len(manifest.splits[split]):06d}.tar"
                    renamed += [] if result.in_place else [(shard, name)]
                    manifest.splits[split].append(replace(shard, file=name))
    good = sum(shard.samples for shards in manifest.splits.values() for shard in shards)
    check_share(folder, good, refused, max_refused_share)
    for split in SPLITS:
        merge_index(folder, split, chunks, sum(shard.samples for shard in manifest.splits[split]))
    write_manifest(folder, manifest, {**facts, "rows": good, "refused": dict(refused)})
    rename_shards(folder, renamed)
    # From here on a merge that dies has only to be tidied up.
    (folder / PLAN).rename(folder / MERGED)


def rename_shards(folder: Path, renamed: list[tuple[Shard, str]]) -> None:
    """Give each shard its own name, where a merge that died has not done so; those left of other rows go."""
    for shard, name in renamed:
        if not (folder / shard.file).exists() and not is_as_written(folder / name, shard):
            raise UserError(f"shard {folder / shard.file} is gone; remove {folder} and prepare again")
    for shard, name in renamed:
        if (folder / shard.file).exists():
            (folder / shard.file).rename(folder / name)
    for stray in {path.name for path in folder.glob("*.tar")} - {name for _, name in renamed}:
        (folder / stray).unlink()


def is_as_written(path: Path, shard: Shard) -> bool:
    return path.exists() and file_sha256(path) == shard.sha256


def tidy(folder: Path) -> None:
    """Remove what only an unfinished preparation needs."""
    for pattern in ("chunk-*", f"{PLAN}*", "lock*"):
        for left in folder.glob(pattern):
            left.unlink()
    (folder / MERGED).unlink()


def results(folder: Path, chunks: set[int]) -> Iterator[ChunkResult]:
    """What each chunk gave, in order."""
    for number in sorted(chunks):
        result = load_result(folder, number)
        assert result is not None, f"chunk {number} was counted as written"
        yield result


def list_refused(result: ChunkResult, listing: IO[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for refusal in result.refused:
        counts[refusal.reason] += refusal.count
        listing.write(json.dumps(asdict(refusal), ensure_ascii=False) + "\n")
    return counts


def merge_index(folder: Path, split: str, chunks: set[int], samples: int) -> None:
    if samples == 0:
        return
    index = open_memmap(folder / index_file(split), mode="w+", dtype=np.uint32, shape=(samples, 2))
    start = 0
    for number in sorted(chunks):
        spans = load_spans(folder, number, split)
        index[start : start + len(spans)] = spans
        start += len(spans)
    index.flush()


def check_share(folder: Path, good: int, refused: Counter[str], max_refused_share: float) -> None:
    """Stop when too many rows were refused: with everything kept, or, without a good row, the list of them alone."""
    bad = refused.total()
    if good and bad <= max_refused_share * (good + bad):
        return
    listing = folder / REFUSED
    first = json.loads(listing.open(encoding="utf-8").readline() or "{}")
    example = f"the first: {first['origin']}, {first['reason']} {first['detail']}" if first else "the source is empty"
    remedy = f"see {listing}; raise max_refused_share to go on, or remove that folder to start anew"
    if not good and not any(folder.glob("*.tar")):
        listing = listing.rename(folder.with_suffix("").with_name(f"{folder.stem}.{REFUSED}"))
        shutil.rmtree(folder)
        remedy = f"nothing was written; see {listing}"
    counts = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
    limit = f", more than max_refused_share={max_refused_share}" if bad > max_refused_share * (good + bad) else ""
    raise UserError(f"{bad} of {good + bad} rows were refused ({counts}){limit}; {example[:200]}; {remedy}")

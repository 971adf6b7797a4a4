"""`gcl prepare`: a source's rows, checked and split, become tar shards with a manifest.

gcl prepare source=catalog source.path=DIR output_dir=shards/mine
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gcl.config import load_settings
from gcl.data.image_hash import HashMethod, with_image_hashes
from gcl.data.record import Record, Refusal, refusal_of
from gcl.data.shards import MANIFEST, ShardWriter, write_manifest
from gcl.errors import UserError
from gcl.files import check_new_folder
from gcl.parts import build_as

REFUSED = "refused.jsonl"
HOPELESS = 1000  # more refused rows, without a good one and past what is allowed: the rest need not be read
SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Where rows come from."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record | Refusal]: ...


@dataclass
class SplitSettings:
    """How rows are shared among splits: by the hash of one field, so that rows equal in it stay together."""

    by: str = "title"  # field whose value decides; a row without it is refused
    validation: float = 0.1  # share of the field's values
    test: float = 0.0  # share of the field's values

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise UserError(
                f"split.validation {self.validation} and split.test {self.test} must be shares that leave some to train"
            )

    def split_of(self, record: Record) -> str:
        """A pure function of the field's value."""
        value = " ".join(str(record.fields[self.by]).casefold().split())
        place = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest()) / 2**64
        if place < self.validation:
            return "validation"
        return "test" if place < self.validation + self.test else "train"


@dataclass
class PrepareSettings:
    """Write a source's rows as tar shards; bad rows are counted, listed in refused.jsonl, and bounded."""

    output_dir: str  # folder for the shards
    source: Any  # where rows come from
    split: SplitSettings = field(default_factory=SplitSettings)  # how rows are shared among splits
    required: list[str] = field(default_factory=lambda: ["title", "image"])  # fields without which a row is refused
    image_hash: HashMethod = "bytes"  # bytes: equal for identical files; perceptual: for copies, some look-alikes too
    samples_per_shard: int = 1000  # rows of one tar
    max_refused_share: float = 0.1  # of all rows; more than that is taken for a mistake in the settings

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError(f"samples_per_shard {self.samples_per_shard} must be at least 1")
        if not 0 <= self.max_refused_share <= 1:
            raise UserError(f"max_refused_share {self.max_refused_share} must be a share from 0 to 1")


def main(arguments: list[str]) -> None:
    settings = load_settings("prepare", PrepareSettings, arguments)
    built = build_as(PrepareSettings, settings)
    prepare(built, facts={"source": settings["source"], "split": settings["split"]})


def prepare(settings: PrepareSettings, facts: dict[str, Any]) -> None:
    """Write the shards under a temporary name, then rename the folder.

    Raises:
        UserError: the folder is taken, or more rows are refused than allowed (the list of them stays).
    """
    output = Path(settings.output_dir).expanduser().resolve()
    check_new_folder(output)
    temporary = output.with_name(output.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    writers = {split: ShardWriter(temporary, split, settings.samples_per_shard) for split in SPLITS}
    refused = write_rows(settings, writers, temporary / REFUSED)
    rows = sum(writer.samples for writer in writers.values())
    total = rows + sum(refused.values())
    if total == 0 or sum(refused.values()) > settings.max_refused_share * total:
        listing = output.with_name(output.name + "." + REFUSED)
        (temporary / REFUSED).rename(listing)
        shutil.rmtree(temporary)
        raise UserError(
            f"{sum(refused.values())} of {total} rows were refused ({reasons(refused)}), more than "
            f"max_refused_share={settings.max_refused_share}; nothing was written; see {listing}"
        )
    facts = {**facts, "image_hash": settings.image_hash, "rows": rows, "refused": dict(refused)}
    write_manifest(temporary, writers, facts)
    if output.exists():
        output.rmdir()
    temporary.rename(output)
    print_summary(output, writers, refused)


def write_rows(settings: PrepareSettings, writers: dict[str, ShardWriter], listing: Path) -> Counter[str]:
    """Write every good row to its split and every bad one to `listing`; returns how many were refused, by reason."""
    refused: Counter[str] = Counter()
    seen: set[bytes] = set()
    with listing.open("w") as file, progress_bar() as progress:
        task = progress.add_task("prepare", total=len(settings.source))
        for row in settings.source:
            checked = row if isinstance(row, Refusal) else check_row(row, settings, seen)
            if isinstance(checked, Refusal):
                refused[checked.reason] += 1
                file.write(
                    json.dumps({"origin": checked.origin, "reason": checked.reason, "detail": checked.detail}) + "\n"
                )
            else:
                writers[settings.split.split_of(checked)].write(checked)
            progress.advance(task)
            if not seen and sum(refused.values()) > max(HOPELESS, settings.max_refused_share * len(settings.source)):
                break
    for writer in writers.values():
        writer.close()
    return refused


def check_row(record: Record, settings: PrepareSettings, seen: set[bytes]) -> Record | Refusal:
    """The record as it is written, or why it is refused; `seen` holds digests of the ids written so far."""
    if refusal := refusal_of(record, [*settings.required, settings.split.by]):
        return refusal
    digest = hashlib.blake2b(record.item_id.encode(), digest_size=16).digest()
    if digest in seen:
        return Refusal(record.origin, "duplicate item_id", record.item_id)
    try:
        hashed = with_image_hashes(record, settings.image_hash)
    except OSError as error:
        return Refusal(record.origin, "bad image", str(error))
    seen.add(digest)
    return hashed


def reasons(refused: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in refused.most_common())


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def print_summary(output: Path, writers: dict[str, ShardWriter], refused: Counter[str]) -> None:
    has_scores = any(writer.scores.rows for writer in writers.values())
    table = Table("split", "rows", "shards", *(["with a score", "lowest", "highest"] if has_scores else []))
    for split, writer in writers.items():
        cells = [split, str(writer.samples), str(len(writer.shards))]
        if has_scores:
            bounds = (writer.scores.min, writer.scores.max)
            cells += [str(writer.scores.rows), *(f"{bound:g}" for bound in bounds if bound is not None)]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(f"wrote {output / MANIFEST}", soft_wrap=True, highlight=False)
    if refused:
        console.print(f"refused {sum(refused.values())} rows ({reasons(refused)}); listed in {output / REFUSED}")

"""`gcl prepare`: a source's rows, checked and split, become tar shards with a manifest.

gcl prepare source=catalog source.path=DIR output_dir=shards/mine

The rows are cut into chunks that workers write, each whole or again, into a folder `OUTPUT.unfinished`; a run that
died goes on there. Which rows make a chunk depends on the rows alone, so the shards are the same for any number of
workers, runs and parts.
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.table import Table

from gcl.config import load_settings
from gcl.data.fetch.records import ImageSettings
from gcl.data.image_hash import HashMethod
from gcl.data.manifest import MANIFEST, SPLITS, Manifest, manifest_from_json
from gcl.data.prepare.chunk import Chunk, ChunkRules, RowChunk, SplitSettings
from gcl.data.prepare.lock import sole_use
from gcl.data.prepare.merge import MERGED, PLAN, REFUSED, merge_chunks, tidy
from gcl.data.prepare.pool import Tally, write_chunks
from gcl.data.record import ITEM_ID, Refusal, SourceRow, hash64, refusal_of
from gcl.errors import PLACE_ERRORS, UserError
from gcl.files import check_new_folder
from gcl.parts import build_as, flat

QUERY = "query"
IMAGE_NAME = re.compile(r"[^_/\\.][^/\\]*")
HOPELESS = 1000  # more refused rows, without a good one and past what is allowed: the rest need not be read
SHARDS_PER_CHUNK = 10  # at most: what a kill loses, and a worker does at once
CHUNKS = 64  # of a small source, so that all workers have some
CHUNK_BYTES = 128e6  # of images that a source itself brings, so that memory is bounded
# Settings that change how fast it goes or what is forgiven, but not the shards.
FREE_TO_CHANGE = (
    "images.timeout_seconds",
    "images.connections",
    "images.retries",
    "images.allow_private_addresses",
)


class Source(Protocol):
    """Where rows come from: always the same rows in the same order."""

    folder: Path | None  # what the paths of images are relative to, and stay inside of

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[SourceRow | Refusal]: ...


@runtime_checkable
class IndexedSource(Protocol):
    """Shards that are there already: they are indexed where they lie, one by one."""

    def __len__(self) -> int: ...  # shards

    def chunks(self) -> Iterator[Chunk]: ...

    def manifest(self) -> Manifest: ...  # an empty one that says where they lie


@dataclass
class PrepareSettings:
    """Write a source's rows as tar shards; bad rows are counted, listed in refused.jsonl, and bounded."""

    output_dir: str  # folder for the shards
    source: Any  # where rows come from
    images: ImageSettings = field(default_factory=ImageSettings)  # how they are fetched and kept
    split: SplitSettings = field(default_factory=SplitSettings)  # how rows are shared among splits
    required: list[str] = field(default_factory=lambda: ["title", "image"])  # fields without which a row is refused
    image_hash: HashMethod = "bytes"  # bytes: equal for identical files; perceptual: for copies, some look-alikes too
    samples_per_shard: int = 1000  # rows of one tar, at most
    shard_megabytes: float = 500.0  # MB of one tar, at which the next one is begun
    max_refused_share: float = 0.1  # of all rows; more than that is taken for a mistake in the settings
    workers: int | None = None  # processes that fetch, check and write; null: one for each core
    part: str | None = None  # 0/8, ..., 7/8: one of eight jobs that share output_dir; merged by the command without it

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1 or self.shard_megabytes <= 0:
            raise UserError(
                f"samples_per_shard {self.samples_per_shard} must be at least 1, and shard_megabytes "
                f"{self.shard_megabytes} above 0"
            )
        if not 0 <= self.max_refused_share <= 1:
            raise UserError(f"max_refused_share {self.max_refused_share} must be a share from 0 to 1")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers {self.workers} must be at least 1")
        self.part_number, self.parts = parse_part(self.part)


def parse_part(part: str | None) -> tuple[int, int]:
    """3/8 as (3, 8); no part is the only one."""
    if part is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"part={part} must be written i/n with i from 0 to n - 1, such as part=0/8")
    return int(found[1]), int(found[2])


def main(arguments: list[str]) -> None:
    settings = load_settings("prepare", PrepareSettings, arguments)
    built = build_as(PrepareSettings, settings)
    kept = ("source", "split", "required", "image_hash", "images", "samples_per_shard", "shard_megabytes")
    prepare(built, facts={name: settings[name] for name in kept})


def prepare(settings: PrepareSettings, facts: dict[str, Any]) -> None:
    """Write the chunks that are not there yet, then merge them all, unless this is one part of several.

    Args:
        facts: what the manifest says of where the rows came from; a run that died is gone on with by the same only.

    Raises:
        UserError: the folder is taken, or more rows are refused than allowed (what was written stays).
    """
    output = Path(settings.output_dir).expanduser().resolve()
    check_new_folder(output)
    unfinished = output.with_name(output.name + ".unfinished")
    plan = plan_of(facts, len(settings.source))  # before anything is written: the source may have more to say
    unfinished.mkdir(parents=True, exist_ok=True)
    with sole_use(unfinished, settings.part), full_disk_in_one_line(unfinished):
        if (unfinished / MERGED).exists():  # it died while it tidied up
            check_plan(unfinished / MERGED, plan)
        else:
            begin(unfinished, plan)
            tally = write_missing_chunks(settings, unfinished)
            if settings.parts > 1:
                end_part(settings, tally)
                return
            source = settings.source
            manifest = source.manifest() if isinstance(source, IndexedSource) else Manifest()
            merge_chunks(unfinished, tally.chunks, settings.max_refused_share, facts, manifest)
        tidy(unfinished)
        if output.exists():
            output.rmdir()
        unfinished.rename(output)
    print_summary(output)


def end_part(settings: PrepareSettings, tally: Tally) -> None:
    if tally.is_hopeless:
        raise UserError(f"part {settings.part} stopped: the first {tally.refused} rows were all refused")
    print(
        f"part {settings.part}: its {len(tally.chunks)} chunks are written; when all parts are, the same command "
        "without part= makes one folder of them"
    )


@contextmanager
def full_disk_in_one_line(unfinished: Path) -> Iterator[None]:
    """A disk that takes no more is the user's to mend; what was written stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        raise UserError(
            f"{unfinished} cannot be written ({error.strerror}); make room, then the same command goes on from there"
        ) from error


def write_missing_chunks(settings: PrepareSettings, unfinished: Path) -> Tally:
    """Write what this part has to and is not there yet; what is there afterwards."""
    units, source = len(settings.source), settings.source
    allowed = max(HOPELESS, settings.max_refused_share * units)
    chunks: Iterator[Chunk] = source.chunks() if isinstance(source, IndexedSource) else row_chunks(settings, units)
    return write_chunks(
        (chunk for chunk in chunks if chunk.number % settings.parts == settings.part_number),
        unfinished,
        rules_of(settings),
        settings.workers,
        -(-units // settings.parts),
        # How many rows foreign shards hold is known when all are read.
        lambda tally: isinstance(source, IndexedSource) or tally.good > 0 or tally.refused <= allowed,
    )


def plan_of(facts: dict[str, Any], units: int) -> dict[str, Any]:
    """What may not change when a preparation goes on."""
    kept = {name: value for name, value in flat(facts).items() if not name.startswith(FREE_TO_CHANGE)}
    plan: dict[str, Any] = json.loads(json.dumps({"rows": units, **kept}))
    return plan


def begin(unfinished: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new preparation, or check that of the one that is there."""
    if any(unfinished.glob("chunk-*.json")) and (unfinished / PLAN).exists():
        check_plan(unfinished / PLAN, plan)
        return
    # Under a name of its own: parts may begin at the same moment, on several machines.
    temporary = unfinished / f"{PLAN}.{secrets.token_hex(8)}"
    temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    temporary.rename(unfinished / PLAN)


def check_plan(file: Path, plan: dict[str, Any]) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        differs = next((name for name in {**before, **plan} if before.get(name) != plan.get(name)), None)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove {file.parent} to start anew") from error
    if differs:
        raise UserError(
            f"{file.parent} holds an unfinished preparation with {differs}={before.get(differs)}, this command says "
            f"{plan.get(differs)}; give the same to go on with it, or remove that folder to start anew"
        )


def rules_of(settings: PrepareSettings) -> ChunkRules:
    return ChunkRules(
        settings.source.folder,
        settings.images,
        settings.split,
        settings.required,
        settings.image_hash,
        settings.samples_per_shard,
        settings.shard_megabytes * 1e6,
    )


def row_chunks(settings: PrepareSettings, total: int) -> Iterator[RowChunk]:
    """The source's rows in chunks; those that can be refused without their images are refused here.

    A row whose item_id and query are those of an earlier one is a duplicate of it.
    """
    size = min(max(settings.samples_per_shard, total // CHUNKS), SHARDS_PER_CHUNK * settings.samples_per_shard)
    required = [*settings.required, settings.split.by]
    seen: set[int] = set()
    rows: list[SourceRow | Refusal] = []
    number = first_row = held = 0
    for row in settings.source:
        if isinstance(row, SourceRow):
            held += sum(len(c) for found in row.images.values() for c in found if isinstance(c, bytes))
            rows.append(check_row(row, required, seen))
        else:
            rows.append(row)
        if len(rows) == size or held >= CHUNK_BYTES:
            yield RowChunk(number, first_row, rows)
            number, first_row, rows, held = number + 1, first_row + len(rows), [], 0
    if rows:
        yield RowChunk(number, first_row, rows)


def check_row(row: SourceRow, required: list[str], seen: set[int]) -> SourceRow | Refusal:
    """The row, or why it is refused; `seen` holds hashes of the item ids and queries of the rows before."""
    for name in row.images:
        if not IMAGE_NAME.fullmatch(name):
            raise UserError(f"image field {name!r} cannot name a tar's member; rename the column with source.columns")
    images = [name for name, candidates in row.images.items() if candidates]
    if any(name in row.images and name not in images for name in required):
        return Refusal(row.origin, "missing image", "the row names none")
    if refusal := refusal_of(row.fields, images, required, row.origin):
        return refusal
    item_id, query = str(row.fields[ITEM_ID]), str(row.fields.get(QUERY, ""))
    identity = hash64(f"{item_id}\0{query}")
    if identity in seen:
        return Refusal(row.origin, "duplicate item_id", f"{item_id} {query}".strip())
    seen.add(identity)
    return row


def print_summary(output: Path) -> None:
    text = (output / MANIFEST).read_text(encoding="utf-8")
    manifest, refused = manifest_from_json(text, str(output / MANIFEST)), Counter(json.loads(text)["refused"])
    has_scores = any(scores.rows for scores in manifest.scores.values())
    table = Table("split", "rows", "shards", "MB", *(["with a score", "lowest", "highest"] if has_scores else []))
    for split in SPLITS:
        shards, scores = manifest.splits[split], manifest.scores[split]
        cells = [
            split,
            str(sum(s.samples for s in shards)),
            str(len(shards)),
            f"{sum(s.bytes for s in shards) / 1e6:.1f}",
        ]
        if has_scores:
            cells += [str(scores.rows), *(f"{bound:g}" for bound in (scores.min, scores.max) if bound is not None)]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(f"wrote {output / MANIFEST}", soft_wrap=True, highlight=False)
    if refused:
        console.print(
            f"refused {refused.total()} rows ({reasons(refused)}); listed in {output / REFUSED}", soft_wrap=True
        )


def reasons(refused: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in refused.most_common())

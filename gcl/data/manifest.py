"""What a folder of shards says of itself: manifest.json, and beside it the index of each split."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gcl.errors import UserError
from gcl.files import write_text

MANIFEST = "manifest.json"
IMAGE, TEXT = "image", "text"  # what a field can be
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One tar file: its name in its folder, how many samples of the split and how many bytes it holds, its digest."""

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
        else:
            self.add(ScoreRange(1, 0, score, score))

    def add(self, other: "ScoreRange") -> None:
        self.rows += other.rows
        self.missing += other.missing
        self.min = min((bound for bound in (self.min, other.min) if bound is not None), default=None)
        self.max = max((bound for bound in (self.max, other.max) if bound is not None), default=None)


@dataclass
class Manifest:
    """What manifest.json says that readers need."""

    kinds: dict[str, str] = field(default_factory=dict)  # field -> "image" or "text"
    splits: dict[str, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    scores: dict[str, ScoreRange] = field(default_factory=dict)  # of each split
    shards_folder: str | None = None  # where the shards lie; None: beside the manifest
    members: dict[str, str] | None = None  # of shards that others wrote: tar member's suffix -> field


def index_file(split: str) -> str:
    """The file with the place of each of a split's samples: (samples, 2) uint32, tar blocks from and to."""
    return f"{split}.index.npy"


def write_manifest(folder: Path, manifest: Manifest, facts: dict[str, Any]) -> None:
    """Write manifest.json; `facts` say where the rows came from."""
    content = {
        **facts,
        "fields": manifest.kinds,
        "scores": {split: asdict(scores) for split, scores in manifest.scores.items()},
        "shards_folder": manifest.shards_folder,
        "members": manifest.members,
        "splits": {split: [asdict(shard) for shard in shards] for split, shards in manifest.splits.items()},
    }
    write_text(folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def manifest_from_json(text: str | bytes, place: str) -> Manifest:
    """The manifest that `text` holds.

    Args:
        place: where it was read, for the error.

    Raises:
        UserError: it is none.
    """
    try:
        content = json.loads(text)
        splits = {split: [Shard(**shard) for shard in shards] for split, shards in content["splits"].items()}
        scores = {split: ScoreRange(**found) for split, found in content.get("scores", {}).items()}
        return Manifest(dict(content["fields"]), splits, scores, content.get("shards_folder"), content.get("members"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place} cannot be read ({error}); run gcl prepare again") from error

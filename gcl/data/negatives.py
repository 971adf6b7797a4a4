"""Hard negatives that `gcl mine` found: written beside the shards, and added to a row when it is read.

A folder of them holds `train.npy`, (rows, negatives_per_row) int32: for each row the numbers of its negatives, hardest
first, -1 where it has fewer; and a `manifest.json` that says which shards they were mined from, and with what.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gcl.data.manifest import MANIFEST
from gcl.data.record import Record
from gcl.data.shards import ShardReader
from gcl.errors import UserError
from gcl.files import file_sha256, write_text

NEGATIVES = "negatives."  # before a field's name: the field of a row's explicit negative


def write_negatives(
    folder: Path, reader: ShardReader, numbers: np.ndarray, facts: dict[str, Any], statistics: dict[str, Any]
) -> None:
    """Write a split's negatives under a temporary name, then rename the folder; there is none yet, or an empty one.

    Args:
        numbers: (rows, negatives_per_row) int32.
        facts: what they were mined with.
        statistics: what was found.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    table = temporary / f"{reader.split}.npy"
    np.save(table, numbers)
    split = {"file": table.name, "rows": len(numbers), "fingerprint": reader.fingerprint}
    content = {**facts, "splits": {reader.split: {**split, "statistics": statistics}}}
    write_text(temporary / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if folder.exists():
        folder.rmdir()
    temporary.rename(folder)


class MinedNegatives:
    """The hard negatives of a split's rows, each a row of the same split.

    Raises:
        UserError: none were mined there for this split, they cannot be read, or were mined from other shards.
    """

    def __init__(self, folder: str | Path, reader: ShardReader) -> None:
        self.reader = reader
        path = Path(folder).expanduser()
        mined = read_split(path, reader)
        if mined["fingerprint"] != reader.fingerprint:
            raise UserError(
                f"negatives {path} were mined from other rows than split {reader.split} of {reader.folder} holds; "
                f"mine them again: gcl mine checkpoint=RUN data.path={reader.folder} output_dir=DIR"
            )
        table = path / Path(mined["file"]).name
        self.numbers = read_numbers(table, len(reader))
        self.fingerprint = file_sha256(table)[:16]

    @property
    def kinds(self) -> dict[str, str]:
        """What each field of a negative is: "image" or "text"."""
        return {NEGATIVES + name: kind for name, kind in without_negative(self.reader.kinds).items()}

    def add(self, record: Record, number: int, random: np.random.Generator) -> Record:
        """The record with the fields and images of one of its negatives, or as it is where it has none.

        Args:
            record: sample `number`; a negative that it brings itself gives way.
            random: draws which one, each as likely.
        """
        candidates = self.numbers[number]
        candidates = candidates[candidates >= 0]
        if len(candidates) == 0:
            return record
        negative = self.reader[int(random.choice(candidates))]
        fields, images = with_negative(record.fields, negative.fields), with_negative(record.images, negative.images)
        return Record(fields, images, record.origin)


def with_negative(own: dict[str, Any], negative: dict[str, Any]) -> dict[str, Any]:
    """A row's own values, and those of its negative under their prefixed names."""
    return without_negative(own) | {NEGATIVES + name: value for name, value in without_negative(negative).items()}


def without_negative(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith(NEGATIVES)}


def read_split(folder: Path, reader: ShardReader) -> dict[str, str]:
    """What a folder's manifest says of the reader's split: file, fingerprint and sha256."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UserError(
            f"data.negatives {folder} holds no {MANIFEST}; write negatives there with `gcl mine checkpoint=RUN "
            f"data.path={reader.folder} output_dir={folder}`"
        )
    try:
        splits = {
            split: {name: str(mined[name]) for name in ("file", "fingerprint")}
            for split, mined in json.loads(manifest.read_text(encoding="utf-8"))["splits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} is no manifest of negatives ({error!r}); write some with gcl mine") from error
    if reader.split not in splits:
        raise UserError(
            f"negatives {folder} are of split {', '.join(splits)}, not of {reader.split}; mine those into another "
            f"folder, with data.split={reader.split}"
        )
    return splits[reader.split]


def read_numbers(table: Path, rows: int) -> np.ndarray:
    """The table of a split, left on disk: (rows, negatives_per_row) int32."""
    try:
        numbers: np.ndarray = np.load(table, mmap_mode="r", allow_pickle=False)
        if numbers.dtype != np.int32 or numbers.ndim != 2 or len(numbers) != rows:
            raise ValueError(f"it holds {numbers.dtype} {numbers.shape} where int32 ({rows}, ...) belongs")
        if numbers.min() < -1 or numbers.max() >= rows:
            raise ValueError(f"it names rows from {numbers.min()} to {numbers.max()} of {rows}")
        return numbers
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise UserError(f"{table} cannot be read ({error}); copy it again or run gcl mine again") from error

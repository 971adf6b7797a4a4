"""The rows of several folders as one split: those that ask, and behind them others that are only searched."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from gcl.data.record import Record
from gcl.data.shards import ShardReader
from gcl.data.storage.folders import is_remote


class JoinedReader:
    """Reads as a `ShardReader` does, with the rows of each after those of the one before."""

    def __init__(self, readers: list[ShardReader]) -> None:
        self.readers = readers
        self.folder, self.split = " + ".join(reader.folder for reader in readers), readers[0].split
        self.kinds = {name: kind for reader in reversed(readers) for name, kind in reader.kinds.items()}
        self._ends = np.cumsum([len(reader) for reader in readers])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Record:
        reader, own = self._place(number)
        return reader[own]

    def fields(self, number: int) -> dict[str, str | float]:
        reader, own = self._place(number)
        return reader.fields(own)

    def _place(self, number: int) -> tuple[ShardReader, int]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        return self.readers[which], number - int(self._ends[which] - len(self.readers[which]))

    def split_fields(self, fields: list[str], remedy: str = "") -> tuple[list[str], list[str]]:
        """Told apart by the first folder, which asks."""
        return self.readers[0].split_fields(fields, remedy)

    def written(self) -> dict[str, int]:
        return {
            f"{number}:{file}": time
            for number, reader in enumerate(self.readers)
            for file, time in reader.written().items()
        }

    def check_digests(self, files: list[str]) -> None:
        for number, reader in enumerate(self.readers):
            own = [file.partition(":")[2] for file in files if file.startswith(f"{number}:")]
            reader.check_digests(own)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(reader.fingerprint for reader in self.readers).encode()).hexdigest()[:16]


Reader = ShardReader | JoinedReader


def described(reader: Reader) -> dict[str, Any]:
    """What a result says of the rows that were searched, so that they can be found again."""
    first, *others = reader.readers if isinstance(reader, JoinedReader) else [reader]
    return {
        "path": absolute(first.folder),
        "split": reader.split,
        "corpus": [absolute(other.folder) for other in others],
        "fingerprint": reader.fingerprint,
    }


def absolute(folder: str) -> str:
    """A local folder from the root on; an address as it is."""
    return folder if is_remote(folder) else str(Path(folder).expanduser().resolve())


def build_reader(path: str | Path, split: str, corpus: list[str]) -> Reader:
    """A split, and the splits of the same name of further folders behind it."""
    readers = [ShardReader(folder, split) for folder in (path, *corpus)]
    return JoinedReader(readers) if corpus else readers[0]

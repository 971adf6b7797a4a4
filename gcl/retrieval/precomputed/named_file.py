"""A file that a setting names, FILE or FILE.parquet:COLUMN, and what is wrong with it in one line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gcl.errors import UserError


@dataclass(frozen=True)
class NamedFile:
    """A file that is there, in a format that is known by its suffix."""

    path: Path
    column: str | None  # of a Parquet file; None: the only one that fits

    @property
    def suffix(self) -> str:
        return self.path.suffix

    def __str__(self) -> str:
        return str(self.path) if self.column is None else f"{self.path}:{self.column}"


def named_file(setting: str, text: str, suffixes: Iterable[str]) -> NamedFile:
    """The file that `setting`=`text` names.

    Raises:
        UserError: it is not there, or its suffix is none of `suffixes`.
    """
    stem, suffix, column = text.rpartition(".parquet:")
    path = Path(f"{stem}.parquet" if suffix else text).expanduser()
    if path.suffix not in suffixes:
        raise UserError(f"task.{setting}={text} is of no known format; it may be {', '.join(suffixes)}")
    if not path.is_file():
        raise UserError(f"task.{setting}={text}: there is no such file; give the path of one")
    return NamedFile(path, column if suffix else None)


@contextmanager
def reading(file: NamedFile) -> Iterator[None]:
    """Say which file it was that could not be read."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as {file.suffix} ({reason}); write it again") from error

"""DuckDB for tables that need not fit into memory, and errors in SQL as one line.

A database sees the files that it is given and its own temporary folder, and nothing else: SQL may come from settings.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from gcl.errors import UserError

MAX_THREADS = 4  # more of them need more memory, and reading is what takes the time
BATCH_ROWS = 8192
SETTINGS = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # a table's name would otherwise find this program's variables
}


@contextmanager
def open_database(
    memory_megabytes: int, temporary: Path, readable: Iterable[Path], subject: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new database in the folder `temporary`, which it may write to and where it puts what the memory cannot hold.

    Args:
        readable: the files that may be read.
        subject: what stands before the message of an error.

    Raises:
        UserError: whatever DuckDB finds wrong while this is open, in one line.
    """
    temporary = temporary.resolve()
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    limits: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_megabytes}MB",
        "threads": threads,
        "temp_directory": str(temporary / "spill"),
    }
    try:
        with duckdb.connect(temporary / "duckdb", config={**SETTINGS, **limits}) as database:
            database.execute(f"SET allowed_directories = [{literal(f'{temporary}/')}]")
            # Asked for under the name that `file_list` writes, opened under its own.
            names = [name for path in map(str, map(Path.resolve, readable)) for name in (path, glob.escape(path))]
            database.execute(f"SET allowed_paths = [{', '.join(map(literal, names))}]")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            yield database
    except duckdb.Error as error:
        # What follows an empty line is the query, or advice that no setting here can follow.
        message = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise UserError(f"{subject}: {message}") from error


def batches(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """A query's rows as they come."""
    try:
        yield from database.sql(query).to_arrow_reader(BATCH_ROWS)
    except (pa.ArrowException, OSError) as error:  # how DuckDB's own errors arrive after the first rows
        raise duckdb.Error(str(error)) from error


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def file_list(files: Iterable[Path]) -> str:
    """Files in SQL, whose names are no patterns."""
    return "[" + ", ".join(literal(glob.escape(str(file.resolve()))) for file in files) + "]"

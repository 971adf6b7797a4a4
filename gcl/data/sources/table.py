"""The rows of a table file (CSV, TSV, JSONL or Parquet), read one at a time."""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.data.record import REPLACEMENT_CHARACTER, Refusal
from gcl.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSONL, PARQUET = ".jsonl", ".parquet"
SUFFIXES = (*DELIMITERS, JSONL, PARQUET)
JSONL_HEADER_ROWS = 1000  # the columns of a JSONL file are those of its first rows
PARQUET_BATCH_ROWS = 128  # small, because a row may hold its image
# How a missing value is spelled by the programs that write CSV; JSON and Parquet have a null of their own.
MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "None"})
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One row of a table; a value that is missing has no cell."""

    origin: str  # such as "products.csv:17": the line (the row of a Parquet file), counted from 1
    cells: dict[str, Any]  # column name -> str, or whatever JSON and Parquet hold


def find_table(path: str | Path) -> Path:
    """The table file at `path`, which is that file or a folder with exactly one.

    Raises:
        UserError: nothing there, another kind of file, or a folder with no table or with several.
    """
    path = Path(path).expanduser()
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is no table that can be read; a table ends in {', '.join(SUFFIXES)}")
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give the table, or the folder that holds it")
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and p.name[0] != ".")
    if not tables:
        raise UserError(f"{path} holds no table; put one there that ends in {', '.join(SUFFIXES)}")
    if len(tables) > 1:
        raise UserError(
            f"{path} holds {len(tables)} tables ({', '.join(p.name for p in tables[:5])}); "
            f"name the one to read, such as {tables[0]}"
        )
    return tables[0]


def column_names(table: Path) -> list[str]:
    """The columns of `table`, in order, without nameless ones.

    Raises:
        UserError: a table that is empty or cannot be read, or two columns of one name.
    """
    names = header(table)
    if not names or next(read_rows(table), None) is None:
        raise UserError(f"{table} holds no row that can be read; a table needs named columns and at least one row")
    return [name for name in names if name]


def header(table: Path) -> list[str]:
    """The columns of `table`, in order, a nameless one as ""; none where the file is empty.

    Raises:
        UserError: a table that cannot be read, or two columns of one name.
    """
    if table.suffix.lower() == PARQUET:
        names = list(_parquet_file(table).schema_arrow.names)
    elif table.suffix.lower() == JSONL:
        rows = itertools.islice(read_rows(table), JSONL_HEADER_ROWS)
        names = list(dict.fromkeys(name for row in rows if isinstance(row, Row) for name in row.cells))
    else:
        names = _csv_header(table)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UserError(f"{table} has more than one column named {twice[0]!r}; rename all but one")
    return names


def count_rows(table: Path) -> int:
    """How many rows `read_rows` yields."""
    if table.suffix.lower() == PARQUET:
        return int(_parquet_file(table).metadata.num_rows)
    if table.suffix.lower() == JSONL:
        with table.open("rb") as file:
            return sum(1 for line in file if line.strip())
    return sum(1 for _ in _csv_rows(table))


def read_rows(table: Path, columns: list[str] | None = None) -> Iterator[Row | Refusal]:
    """Every row of `table`, or why it is none; bytes that are not UTF-8 become U+FFFD.

    Args:
        columns: the ones to read of a Parquet file, where that saves time; None: all.
    """
    if table.suffix.lower() == PARQUET:
        return parquet_rows(table, columns=columns)
    return _jsonl_rows(table) if table.suffix.lower() == JSONL else _csv_rows(table)


def _csv_header(table: Path) -> list[str]:
    with table.open("rb") as raw:
        if raw.read(2) in UTF16_MARKS:
            raise UserError(f"{table} is written in UTF-16; save it as UTF-8")
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            header = next(csv.reader(file, delimiter=DELIMITERS[table.suffix.lower()]), [])
        except csv.Error as error:
            raise UserError(f"the first line of {table} is no header ({error}); it must name the columns") from error
    if any(REPLACEMENT_CHARACTER in name for name in header):
        raise UserError(f"the column names of {table} ({', '.join(header)}) are not UTF-8; save it as UTF-8")
    if len(header) == 1 and ";" in header[0]:
        raise UserError(f"{table} is separated by semicolons; save it with commas, or with tabs as .tsv")
    return [name.strip() for name in header]


def _csv_rows(table: Path) -> Iterator[Row | Refusal]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=DELIMITERS[table.suffix.lower()])
        header = [name.strip() for name in next(reader, [])]
        while True:
            origin = f"{table.name}:{reader.line_num + 1}"
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Refusal(origin, "bad CSV", f"{error}; is a quote left open?")
                continue
            if not values:  # a blank line
                continue
            if len(values) != len(header):
                yield Refusal(origin, "wrong number of columns", f"{len(values)}, the header has {len(header)}")
                continue
            named = zip(header, map(str.strip, values), strict=True)
            yield Row(origin, {name: value for name, value in named if name and value not in MISSING})


def _jsonl_rows(table: Path) -> Iterator[Row | Refusal]:
    with table.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
            if line:
                yield _json_row(line, f"{table.name}:{number}")


def _json_row(line: str, origin: str) -> Row | Refusal:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refusal(origin, "bad JSON", str(error))
    if not isinstance(row, dict):
        return Refusal(origin, "bad JSON", f"{line[:80]} is not an object")
    if "\\ud" in line.lower():  # half of a surrogate pair cannot be written as UTF-8
        row = json.loads(SURROGATE.sub(REPLACEMENT_CHARACTER, json.dumps(row, ensure_ascii=False)))
    return Row(origin, {name: value for name, value in row.items() if not _is_missing(value)})


def _parquet_file(table: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(table)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, error) from error


def parquet_rows(table: Path, numbers: Iterable[int] | None = None, columns: list[str] | None = None) -> Iterator[Row]:
    """Rows of a Parquet file: those with these ascending numbers, counted from 0, and these columns; None: all."""
    wanted = itertools.count() if numbers is None else iter(numbers)
    first, number = 0, next(wanted, None)  # the group's first row, the row that comes next
    try:
        file = _parquet_file(table)
        for group in range(file.num_row_groups):
            behind = first + file.metadata.row_group(group).num_rows
            if number is not None and number < behind:  # otherwise nothing of this group is read
                for batch in file.iter_batches(PARQUET_BATCH_ROWS, [group], columns):
                    picked: list[int] = []
                    while number is not None and number < first + batch.num_rows:
                        picked.append(number - first)
                        number = next(wanted, None)
                    yield from _batch_rows(table, batch, first, picked)
                    first += batch.num_rows
            first = behind
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, error) from error


def _batch_rows(table: Path, batch: pa.RecordBatch, first: int, picked: list[int]) -> Iterator[Row]:
    if len(picked) < batch.num_rows:
        batch = batch.take(pa.array(picked, pa.int64()))
    values = (_column_values(column) for column in batch.columns)
    for place, cells in zip(picked, zip(*values, strict=True), strict=True):
        named = zip(batch.schema.names, cells, strict=True)
        origin = f"{table.name}:{first + place + 1}"
        yield Row(origin, {name: value for name, value in named if not _is_missing(value)})


def _column_values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        texts = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return [text if text is None else text.decode("utf-8", errors="replace") for text in texts]


def _unreadable(table: Path, error: Exception) -> UserError:
    first_line = str(error).partition("\n")[0]
    return UserError(f"{table} cannot be read as Parquet ({first_line}); write it again")


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)

"""The rows of a table for which an SQL condition holds, in the table's order."""

import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from gcl.data.record import Refusal
from gcl.data.sources.sql import BATCH_ROWS, batches, file_list, literal, open_database
from gcl.data.sources.table import DELIMITERS, PARQUET, Row, header, parquet_rows, read_rows
from gcl.errors import UserError

MEMORY_MEGABYTES = 500
SAMPLE_ROWS = 1000  # of a CSV or JSONL file, by which a column is numbers or text
MAX_DIGITS = 15  # of a number that float64 does not round; a longer one is a code
# Of the types that DuckDB finds in JSON.
WIDER = {"UBIGINT": "DOUBLE", "BIGINT": "DOUBLE", "HUGEINT": "DOUBLE", "JSON": "VARCHAR", "NULL": "VARCHAR"}
PLACE, BATCH = "gcl_place", "gcl_batch"  # a column and a table that nobody else has


def check_condition(table: Path, condition: str) -> None:
    """Look at the condition and at the columns, and at no more than the first rows.

    Raises:
        UserError: `condition` is no SQL expression on the columns of `table`.
    """
    with _database(table, condition) as database:
        database.sql(_selection(database, table, condition))


def matching_rows(table: Path, condition: str, columns: list[str] | None = None) -> Iterator[Row | Refusal]:
    """Every row of `table` for which `condition` is true, and every one of CSV and JSONL that cannot be read.

    A Parquet file is filtered before it is read, by its own types. A CSV or JSONL file is read and filtered by turns;
    its columns are DOUBLE, or VARCHAR where the first rows hold anything but numbers, and a cell that does not fit is
    NULL.

    Args:
        columns: the ones to read of a Parquet file; None: all.

    Raises:
        UserError: SQL that is wrong, or that fails on a value.
    """
    with _database(table, condition) as database:
        query = _selection(database, table, condition)
        if table.suffix.lower() == PARQUET:
            numbers = (number for batch in batches(database, query) for number in batch.column(0).to_pylist())
            yield from parquet_rows(table, numbers, columns)
            return
        rows = read_rows(table)
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            database.register(BATCH, _lines(batch))
            matching = {place for found in batches(database, query) for place in found.column(0).to_pylist()}
            yield from (row for place, row in enumerate(batch) if isinstance(row, Refusal) or place in matching)


@contextmanager
def _database(table: Path, condition: str) -> Iterator[duckdb.DuckDBPyConnection]:
    subject = f"where={condition!r} does not work on {table}"
    with (
        tempfile.TemporaryDirectory(prefix="gcl-") as temporary,
        open_database(MEMORY_MEGABYTES, Path(temporary), [table], subject) as database,
    ):
        yield database


def _selection(database: duckdb.DuckDBPyConnection, table: Path, condition: str) -> str:
    """The query for the numbers of the rows: in the file, or in the batch."""
    if table.suffix.lower() == PARQUET:
        place, rows = "file_row_number", f"read_parquet({file_list([table])}, file_row_number = true)"
    else:
        structure = _structure(database, table)
        database.register(BATCH, _lines([]))
        place, rows = PLACE, f"(SELECT {PLACE}, unnest(from_json(line, {literal(structure)})) FROM {BATCH})"
    query = f"SELECT {place} FROM {rows} WHERE ({condition}\n)"  # the line break ends a comment
    if [statement.type for statement in duckdb.extract_statements(query)] != [duckdb.StatementType.SELECT]:
        raise UserError(
            f'where={condition!r} is more than a condition on the columns of {table}; write one, such as "price > 0"'
        )
    return query


def _lines(rows: list[Row | Refusal]) -> pa.Table:
    """Rows as JSON, each with its place."""
    readable = [(place, json.dumps(row.cells)) for place, row in enumerate(rows) if isinstance(row, Row)]
    columns = zip(*readable, strict=True) if readable else ((), ())
    return pa.table(
        dict(zip((PLACE, "line"), columns, strict=True)), pa.schema({PLACE: pa.int32(), "line": pa.string()})
    )


def _structure(database: duckdb.DuckDBPyConnection, table: Path) -> str:
    """The types of a CSV or JSONL file's columns, in JSON, by its first rows."""
    sample = [row for row in itertools.islice(read_rows(table), SAMPLE_ROWS) if isinstance(row, Row)]
    if table.suffix.lower() in DELIMITERS:
        sample = [Row(row.origin, {name: _number_or_text(cell) for name, cell in row.cells.items()}) for row in sample]
    database.register(BATCH, _lines(list(sample)))
    ((found,),) = database.execute(f"SELECT json_group_structure(line::JSON) FROM {BATCH}").fetchall()
    empty = {name: "VARCHAR" for name in header(table) if name}  # without a value in the first rows
    return json.dumps(empty | {name: _widened(kind) for name, kind in json.loads(found).items()})


def _number_or_text(cell: str) -> float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    is_code = cell.isdigit() and (len(cell) > MAX_DIGITS or cell.startswith("0") and len(cell) > 1)
    return cell if is_code or not math.isfinite(number) else number


def _widened(kind: Any) -> Any:
    """The type that later rows fit too: whole numbers are DOUBLE, and what is mixed or unknown is text."""
    if isinstance(kind, str):
        return WIDER.get(kind, kind)
    if isinstance(kind, list):
        return [_widened(inner) for inner in kind]
    return {name: _widened(inner) for name, inner in kind.items()}

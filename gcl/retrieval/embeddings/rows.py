"""The texts of a split's rows, as columns: what evaluation knows of products without their images."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gcl.data.record import ITEM_ID, Record
from gcl.errors import UserError
from gcl.parts import nearest
from gcl.retrieval.embeddings.joined_reader import Reader

ROWS_AT_ONCE = 10_000  # rows that are Python objects at a time


class Rows:
    """Columns of text, stripped, "" where a row has none; in the order of the manifest.

    Arrow holds a text in its bytes and an offset: four million titles and ids in half a gigabyte.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.LargeStringArray:
        """One column.

        Raises:
            UserError: no row has such a field.
        """
        if name not in self.table.column_names:
            names = self.table.column_names
            raise UserError(f"no row has the field {name!r}{nearest(name, names)}; fields are {', '.join(names)}")
        column = self.table[name]
        return column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())

    def texts(self, name: str) -> list[str]:
        return list(self.column(name).to_pylist())

    def row(self, number: int) -> dict[str, str]:
        """The fields that a row has."""
        return {name: value for name, value in self.table.slice(number, 1).to_pylist()[0].items() if value}

    def records(self) -> list[Record]:
        """Every row as a record without images."""
        return [Record({n: v for n, v in row.items() if v}, {}) for row in self.table.to_pylist()]


def read_rows(reader: Reader, numbers: Iterable[int], names: list[str] | None = None) -> pa.Table:
    """The texts of some rows of a split.

    Args:
        names: the columns; item_id is always one. None: every field that any row has.
    """
    columns = [*dict.fromkeys([ITEM_ID, *names])] if names is not None else None
    tables, waiting = [], []
    for number in numbers:
        waiting.append({name: str(value).strip() for name, value in reader.fields(number).items()})
        if len(waiting) == ROWS_AT_ONCE:
            tables.append(table_of(waiting, columns))
            waiting = []
    tables.append(table_of(waiting, columns))
    return pa.concat_tables(tables, promote_options="default") if len(tables) > 1 else tables[0]


def table_of(rows: list[dict[str, str]], names: list[str] | None) -> pa.Table:
    columns = names if names is not None else list(dict.fromkeys([ITEM_ID, *(name for row in rows for name in row)]))
    return pa.table({name: pa.array([row.get(name, "") for row in rows], pa.large_string()) for name in columns})


def filled(table: pa.Table) -> pa.Table:
    """Without nulls, which stand where parts of a table lacked a column."""
    columns: dict[str, Any] = {name: pc.fill_null(table[name], "") for name in table.column_names}
    return pa.table(columns)


def load_rows(reader: Reader) -> Rows:
    """All rows with all their fields, in memory."""
    return Rows(filled(read_rows(reader, range(len(reader)))))

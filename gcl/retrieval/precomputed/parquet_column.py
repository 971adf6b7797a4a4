"""One column of a Parquet file, in batches: the one that is named, or the only one of the type that is wanted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.errors import UserError
from gcl.parts import nearest
from gcl.retrieval.precomputed.named_file import NamedFile


@dataclass(frozen=True)
class ParquetColumn:
    """A column that was found."""

    file: pq.ParquetFile
    name: str

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def type(self) -> pa.DataType:
        return self.file.schema_arrow.field(self.name).type

    def batches(self, rows: int) -> Iterator[pa.Array]:
        """The column's values, `rows` at a time."""
        for batch in self.file.iter_batches(rows, columns=[self.name]):
            yield batch.column(0)


def find_column(file: NamedFile, fits: Callable[[pa.DataType], bool], wanted: str) -> ParquetColumn:
    """The column that `file` names, or the only one whose type fits.

    Args:
        wanted: what it must hold, in words.

    Raises:
        UserError: there is no such column, it is of another type, or several fit.
    """
    # Mapped, so that a large row group's pages are decoded from the file and not first copied into memory.
    table = pq.ParquetFile(file.path, memory_map=True)
    columns = table.schema_arrow
    if file.column is not None and file.column not in columns.names:
        near = nearest(file.column, columns.names)
        raise UserError(f"{file} is no column{near}; there are {', '.join(columns.names)}")
    names = [file.column] if file.column else columns.names
    found = [name for name in names if fits(columns.field(name).type)]
    if not found:
        present = ", ".join(f"{column.name} ({column.type})" for column in columns)
        raise UserError(f"{file} has no column of {wanted}; it has {present}")
    if len(found) > 1:
        raise UserError(f"{file} has several columns of {wanted}; name one: {file.path}:{found[0]}")
    return ParquetColumn(table, found[0])

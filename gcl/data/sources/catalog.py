"""A merchant's own catalogue: a table whose rows name their images by path or by web address."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from gcl.data.record import ITEM_ID, REPLACEMENT_CHARACTER, SCORE, Refusal, SourceRow
from gcl.data.sources.row_filter import check_condition, matching_rows
from gcl.data.sources.table import Row, column_names, count_rows, find_table, read_rows
from gcl.errors import UserError
from gcl.parts import nearest

TITLE, IMAGE = "title", "image"
# Names that shop systems and feeds give the columns every catalogue needs, the likeliest first.
GUESSES = {
    ITEM_ID: ("item_id", "id", "sku", "product_id", "productid", "asin", "variant_sku"),
    TITLE: ("title", "name", "product_title", "product_name"),
    IMAGE: ("image", "image_path", "image_url", "img", "image_link", "image_file", "image_src", "photo"),
}


class CatalogSource:
    """The rows of a CSV, TSV, JSONL or Parquet file, in order.

    Every column becomes a text field of its own name, unless `columns` renames it.

    Raises:
        UserError: no table, several, one that is empty or cannot be read, or columns that cannot be found in it.
    """

    def __init__(
        self,
        path: str,  # the table (.csv, .tsv, .jsonl, .parquet), or a folder that holds one
        columns: dict[str, str] | None = None,  # field: column, such as {item_id: sku, image: photo}; null: by name
        where: str | None = None,  # SQL condition; other rows are left out; in two quotes: 'source.where="price > 0"'
    ) -> None:
        self.table = find_table(path)
        self.columns = field_columns(column_names(self.table), dict(columns or {}), str(self.table))
        self.folder = self.table.parent.resolve()
        self.where = where
        if where is not None:
            check_condition(self.table, where)

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def _rows(self) -> int:
        return count_rows(self.table) if self.where is None else sum(1 for _ in self._read())

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        read = 0
        for row in self._read():
            read += 1
            yield row if isinstance(row, Refusal) else source_row(row, self.columns)
        if not read:
            raise UserError(f"where={self.where!r} leaves no row of {self.table}; mend the condition")

    def item_ids(self, with_rows_left_out: bool = False) -> Iterator[str]:
        """The item_id of every row, in order, "" for one without; of a Parquet file only that column is read."""
        column = self.columns[ITEM_ID]
        for row in read_rows(self.table, [column]) if with_rows_left_out else self._read([column]):
            yield "" if isinstance(row, Refusal) else text_of(row.cells.get(column))

    def picked(self, places: Iterable[int]) -> Iterator[SourceRow | Refusal]:
        """The rows at these ascending places, counted from 0."""
        wanted = iter(places)
        place = next(wanted, None)
        for number, row in enumerate(self._read()):
            if place is None:
                return
            if number == place:
                yield row if isinstance(row, Refusal) else source_row(row, self.columns)
                place = next(wanted, None)

    def _read(self, columns: list[str] | None = None) -> Iterator[Row | Refusal]:
        """Every row that is not left out; of a Parquet file only these columns."""
        if self.where is not None:
            return matching_rows(self.table, self.where, columns)
        return read_rows(self.table, columns)


def source_row(row: Row, columns: dict[str, str]) -> SourceRow | Refusal:
    """A table's row under the names of its fields, or why it is none."""
    for name, value in row.cells.items():
        # Said before the image is looked for, which a wrongly decoded path would make a missing one.
        if REPLACEMENT_CHARACTER in name or (isinstance(value, str) and REPLACEMENT_CHARACTER in value):
            return Refusal(row.origin, "wrong encoding", f"{name}: {str(value)[:80]}")
    fields: dict[str, str | float] = {}
    for name, value in field_values(row, columns):
        if name == SCORE:
            fields[SCORE] = score_of(value)
        elif text := text_of(value):
            fields[name] = text
    return SourceRow(fields, {IMAGE: image_candidates(row.cells.get(columns[IMAGE]))}, row.origin)


def field_values(row: Row, columns: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """The row's cells under the names of their fields, without the image."""
    for name, column in columns.items():
        if name != IMAGE and column in row.cells:
            yield name, row.cells[column]
    used = set(columns.values())
    for column, value in row.cells.items():
        if column not in used and column not in columns:
            yield column, value


def image_candidates(cell: Any) -> tuple[str | bytes, ...]:
    """Every image's address, path or content that a cell names, the content first in Hugging Face's struct."""
    found: list[str | bytes] = []
    for image in cell if isinstance(cell, list) else [cell]:
        named = (image.get("bytes") or image.get("path")) if isinstance(image, dict) else image
        named = named.strip() if isinstance(named, str) else named
        if isinstance(named, str | bytes) and named:
            found.append(named)
    return tuple(found)


def field_columns(
    present: list[str], wanted: dict[str, str], table: str, guesses: Mapping[str, tuple[str, ...]] = GUESSES
) -> dict[str, str]:
    """The column of each field that `wanted` names and of the fields that `guesses` has likely names for.

    Raises:
        UserError: a column that `wanted` names is not present, or a guessed field has no column.
    """
    for name, column in wanted.items():
        if column not in present:
            raise UserError(
                f"columns.{name} is {column!r}, a column that {table} does not have{nearest(column, present)}; "
                f"there are {', '.join(present)}; columns are written {{FIELD: COLUMN}}"
            )
    found = dict(wanted)
    for name in guesses:
        likely = wanted.get(name) or likely_column(name, present, set(wanted.values()), guesses)
        if likely is None:
            raise UserError(
                f"{table} has no column for {name}; it has {', '.join(present)}; name the one to use: "
                f"'source.columns={{{name}: COLUMN}}'"
            )
        found[name] = likely
    return found


def likely_column(name: str, present: list[str], taken: set[str], guesses: Mapping[str, tuple[str, ...]]) -> str | None:
    """The column that a field is likely to stand in, and that no other field took."""
    # "Image URL" and "image-url" are both image_url.
    spelled = {column.lower().replace(" ", "_").replace("-", "_"): column for column in reversed(present)}
    likely = [spelled[guess] for guess in guesses[name] if guess in spelled]
    return next((column for column in likely if column == name or column not in taken), None)


def text_of(value: Any) -> str:
    """A cell as text: 12.0 is "12", a list is its texts joined by commas, an object or no number is nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else ""
    if isinstance(value, list):
        return ", ".join(text for text in map(text_of, value) if text)
    return "" if value is None or isinstance(value, dict | bytes) else str(value).strip()


def score_of(value: Any) -> float | str:
    """A cell as a number, or as text where it is none, for which `refusal_of` refuses the row."""
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)
    return str(value)

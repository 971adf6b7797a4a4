"""A merchant's own catalogue: a table whose rows name their images by path or by web address."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

from gcl.data.record import ITEM_ID, REPLACEMENT_CHARACTER, SCORE, Record, Refusal
from gcl.data.sources.image_fetch import IS_URL, ImageDownloader, ImageError, read_image_file
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
DOWNLOADS = 16  # at the same time
LOOK_AHEAD = 64  # rows read ahead while the first of them is downloaded


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
        max_image_megabytes: float = 20.0,  # MB; a larger image file is refused
        timeout_seconds: float = 20.0,  # seconds a web server may take for one image
        allow_private_addresses: bool = False,  # true: also download from this machine and the local network
    ) -> None:
        for name, value in (("max_image_megabytes", max_image_megabytes), ("timeout_seconds", timeout_seconds)):
            if value <= 0:
                raise UserError(f"{name} is {value}; it must be above 0")
        self.table = find_table(path)
        self.columns = field_columns(column_names(self.table), dict(columns or {}), str(self.table))
        self._max_image_bytes = int(max_image_megabytes * 1e6)
        self._folder = self.table.parent.resolve()
        self._downloader = ImageDownloader(self._max_image_bytes, timeout_seconds, allow_private_addresses)

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def _rows(self) -> int:
        return count_rows(self.table)

    def __iter__(self) -> Iterator[Record | Refusal]:
        waiting: deque[Future[Record | Refusal] | Record | Refusal] = deque()
        pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="download")
        try:
            for row in read_rows(self.table):
                waiting.append(pool.submit(self._record, row) if self._is_remote(row) else self._record(row))
                while waiting and (not isinstance(waiting[0], Future) or len(waiting) > LOOK_AHEAD):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _is_remote(self, row: Row | Refusal) -> bool:
        return isinstance(row, Row) and isinstance(named := self._image(row), str) and IS_URL.match(named) is not None

    def _record(self, row: Row | Refusal) -> Record | Refusal:
        if isinstance(row, Refusal):
            return row
        for name, value in row.cells.items():
            # Said before the image is looked for, which a wrongly decoded path would make a missing one.
            if REPLACEMENT_CHARACTER in name or (isinstance(value, str) and REPLACEMENT_CHARACTER in value):
                return Refusal(row.origin, "wrong encoding", f"{name}: {str(value)[:80]}")
        fields: dict[str, str | float] = {}
        for name, value in self._field_values(row):
            if name == SCORE:
                fields[SCORE] = score_of(value)
            elif text := text_of(value):
                fields[name] = text
        try:
            return Record(fields, {IMAGE: self._image_bytes(self._image(row))}, row.origin)
        except ImageError as error:
            return Refusal(row.origin, error.reason, error.detail)

    def _field_values(self, row: Row) -> Iterator[tuple[str, Any]]:
        """The row's cells under the names of their fields, without the image."""
        for name, column in self.columns.items():
            if name != IMAGE and column in row.cells:
                yield name, row.cells[column]
        used = set(self.columns.values())
        for column, value in row.cells.items():
            if column not in used and column not in self.columns:
                yield column, value

    def _image(self, row: Row) -> str | bytes | None:
        """The image's address, path or content: the first of several, the content first in Hugging Face's struct."""
        cell = row.cells.get(self.columns[IMAGE])
        if isinstance(cell, list):
            cell = cell[0] if cell else None
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        return cell.strip() if isinstance(cell, str) else cell if isinstance(cell, bytes) else None

    def _image_bytes(self, image: str | bytes | None) -> bytes:
        if not image:
            raise ImageError("missing image", "the row names none")
        if isinstance(image, bytes):
            return image
        if IS_URL.match(image):
            return self._downloader.fetch(image)
        return read_image_file(self._folder, image, self._max_image_bytes)


def field_columns(present: list[str], wanted: dict[str, str], table: str) -> dict[str, str]:
    """The column of each field that `wanted` names and of the fields every catalogue needs.

    Raises:
        UserError: a column that `wanted` names is not present, or a needed field has neither a column nor a likely one.
    """
    for name, column in wanted.items():
        if column not in present:
            raise UserError(
                f"columns.{name} is {column!r}, a column that {table} does not have{nearest(column, present)}; "
                f"there are {', '.join(present)}; columns are written {{FIELD: COLUMN}}"
            )
    taken = set(wanted.values())
    # "Image URL" and "image-url" are both image_url.
    spelled = {name.lower().replace(" ", "_").replace("-", "_"): name for name in reversed(present)}
    found = dict(wanted)
    for name, guesses in GUESSES.items():
        likely = [spelled[guess] for guess in guesses if guess in spelled]
        free = [column for column in likely if column == name or column not in taken]
        if name not in found and not free:
            raise UserError(
                f"{table} has no column for {name}; it has {', '.join(present)}; name the one to use: "
                f"'source.columns={{{name}: COLUMN}}'"
            )
        found.setdefault(name, free[0] if free else "")
    return found


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


def _result(row: Future[Record | Refusal] | Record | Refusal) -> Record | Refusal:
    return row.result() if isinstance(row, Future) else row

"""A data set of the `datasets` library: from the Hub by its name, or local Parquet, Arrow and image folders.

gcl prepare source=hf_dataset source.path=Marqo/amazon-products-eval output_dir=shards/amazon_products_eval
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from gcl.data.record import ITEM_ID, Refusal, SourceRow
from gcl.data.sources.catalog import GUESSES, IMAGE, field_columns, image_candidates, source_row
from gcl.data.sources.table import PARQUET, Row
from gcl.errors import UserError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ARROW = ".arrow"
ARROW_FILE = b"ARROW1"  # how the one of its formats begins that is no stream
BATCH_ROWS = 128  # read at a time: small, because a row may hold its image


class HFDatasetSource:
    """The rows of one split, in order, with images as they are stored: nothing is decoded, no code of theirs is run.

    Every column becomes a text field of its own name, unless `columns` renames it; class labels become their names, and
    further image columns image fields. Where no column is named like an id, the number of the row is the item_id. A
    `position` is a field like any other: it is a rank, with the best first, and a score has the best highest.

    A data set of the Hub is first downloaded, to where `datasets` keeps them (HF_HOME); local files are read in place.

    Raises:
        UserError: no such data set, several splits or configurations to choose from, or columns that are not there.
    """

    def __init__(
        self,
        path: str,  # a name on the Hub, such as Marqo/amazon-products-eval, or a local folder, .parquet or .arrow file
        split: str | None = None,  # such as train; null: the only one
        name: str | None = None,  # the configuration, where it has several
        columns: dict[str, str] | None = None,  # field: column, such as {item_id: sku, image: photo}; null: by name
    ) -> None:
        local = Path(path).expanduser()
        self.path, self.is_local = path, bool(path) and local.exists()
        if not self.is_local and not HUB_NAME.fullmatch(path):  # also keeps out what `datasets` would take for a format
            shown = "an address" if "://" in path else repr(path)
            raise UserError(
                f"source.path is {shown}; it must be a folder or file that exists, or OWNER/NAME on the Hub"
            )
        self.folder = (local if local.is_dir() else local.parent).resolve() if self.is_local else hub_folder(path)
        with told_as_user_errors(path):
            self._builder = local_builder(local, name) if self.is_local else datasets.load_dataset_builder(path, name)
            self.split = chosen_split(self._builder, split, path)
            self.features = self._builder.info.features or self._stored_features()
        self.label = f"{local.name}:{self.split}"
        present, wanted = list(self.features), dict(columns or {})
        self._is_numbered = ITEM_ID not in wanted and not any(spelled(column) in GUESSES[ITEM_ID] for column in present)
        self.columns = field_columns(present + [ITEM_ID] * self._is_numbered, wanted, f"{path} ({self.split})")

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        number = 0
        with told_as_user_errors(self.path):
            for table in self._tables():
                for values in zip(*map(column_values, table.columns), strict=True):
                    number += 1
                    yield self._row(number, dict(zip(table.schema.names, values, strict=True)))

    @cached_property
    def _rows(self) -> int:
        with told_as_user_errors(self.path):
            if not self.is_local:
                return len(self._downloaded)
            if self._builder.name == "parquet":
                return sum(pq.read_metadata(file).num_rows for file in self._files)
            return sum(table.num_rows for table in self._tables())

    @property
    def _files(self) -> list[str]:
        """The local files of the split."""
        return [str(file) for file in (self._builder.config.data_files or {})[self.split]]

    @cached_property
    def _downloaded(self) -> datasets.Dataset:
        """The Hub's rows, in Arrow files that are mapped into memory."""
        self._builder.download_and_prepare()
        return self._builder.as_dataset(split=self.split)

    def _tables(self) -> Iterator[pa.Table | pa.RecordBatch]:
        """The rows as they are stored, some at a time."""
        if not self.is_local:
            yield from self._downloaded.with_format("arrow").iter(BATCH_ROWS)
        elif self._builder.name == "parquet":
            for file in self._files:
                with pq.ParquetFile(file) as opened:
                    yield from opened.iter_batches(BATCH_ROWS)
        elif self._builder.name == "arrow":
            for file in self._files:
                yield from arrow_batches(file)
        else:
            yield from self._builder.as_streaming_dataset(split=self.split).with_format("arrow").iter(BATCH_ROWS)

    def _stored_features(self) -> datasets.Features:
        """The columns and their kinds, where only the files tell."""
        if not self.is_local:
            return self._downloaded.features
        first = next(self._tables(), None)
        if first is None:
            raise UserError(f"{self.path} ({self.split}) holds no row")
        return datasets.Features.from_arrow_schema(first.schema)

    def _row(self, number: int, values: dict[str, Any]) -> SourceRow | Refusal:
        cells = {}
        for name, value in values.items():
            kind = self.features.get(name)
            if isinstance(kind, datasets.ClassLabel) and isinstance(value, int):
                value = kind.names[value] if 0 <= value < len(kind.names) else None  # -1: not labelled
            if value is not None and value != "" and value == value:
                cells[name] = value
        if self._is_numbered:
            cells[ITEM_ID] = str(number)
        row = source_row(Row(f"{self.label}:{number}", cells), self.columns)
        if isinstance(row, Refusal):
            return row
        further = {field: image_candidates(cells[column]) for field, column in self._further_images if column in cells}
        return replace(row, images={**row.images, **further})

    @cached_property
    def _further_images(self) -> list[tuple[str, str]]:
        """Field and column of every image but the first."""
        fields = {column: field for field, column in self.columns.items()}
        columns = [name for name, kind in self.features.items() if isinstance(kind, datasets.Image)]
        return [(fields.get(name, name), name) for name in columns if fields.get(name) != IMAGE]


def local_builder(local: Path, name: str | None) -> datasets.DatasetBuilder:
    """What reads a local file or folder."""
    if local.is_dir():
        return datasets.load_dataset_builder(str(local), name)
    if local.suffix not in (PARQUET, ARROW):
        raise UserError(f"{local} is neither {PARQUET} nor {ARROW} nor a folder; source=catalog reads other tables")
    return datasets.load_dataset_builder(local.suffix[1:], data_files={"train": [str(local)]})


def chosen_split(builder: datasets.DatasetBuilder, wanted: str | None, path: str) -> str:
    """The split that is wanted; without a wish the only one.

    Raises:
        UserError: it is not there, or there are several.
    """
    there = [str(split) for split in builder.info.splits or builder.config.data_files or ()]
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted not in there:
        raise UserError(
            f"{path} has " + (f"no split {wanted!r}; it has" if wanted else "the splits") + f" {', '.join(there)}; "
            f"choose one: source.split={there[0] if there else 'NAME'}"
        )
    return wanted


def hub_folder(path: str) -> Path:
    """Where the Hub's client keeps the files of this data set: images that are files lie below it."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve() / f"datasets--{path.replace('/', '--')}"


def spelled(column: str) -> str:
    return column.lower().replace(" ", "_").replace("-", "_")


def column_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; bytes that are not UTF-8 become U+FFFD."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        texts = column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return [text if text is None else text.decode("utf-8", errors="replace") for text in texts]


def arrow_batches(file: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file of one of Arrow's two formats, mapped into memory."""
    with pa.memory_map(file) as mapped:
        is_stream = mapped.read(len(ARROW_FILE)) != ARROW_FILE
        mapped.seek(0)
        if is_stream:
            batches: Iterable[pa.RecordBatch] = pa.ipc.open_stream(mapped)
        else:
            reader = pa.ipc.open_file(mapped)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            for first in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(first, BATCH_ROWS)


@contextmanager
def told_as_user_errors(path: str) -> Iterator[None]:
    """Whatever keeps a data set from being read, in one line."""
    try:
        yield
    except UserError:
        raise
    except (DatasetsError, HfHubHTTPError, OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be read as a data set ({first_line}); give a local folder or file, or a name on the "
            "Hub that can be reached and read from here"
        ) from error

"""Ids from files that others wrote, as text and exactly as they stand there: leading zeros and spaces stay."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.errors import UserError
from gcl.retrieval.precomputed.named_file import NamedFile, named_file, reading
from gcl.retrieval.precomputed.parquet_column import find_column

BATCH = 1 << 17  # ids that are Python's strings at once


def load_ids(setting: str, text: str) -> pa.StringArray:
    """The ids of the file that `setting`=`text` names, in its order.

    Raises:
        UserError: a file that is missing, unreadable or pickled, holds something else, lacks an id or has one twice.
    """
    file = named_file(setting, text, READERS)
    with reading(file):
        ids = pa.concat_arrays([pa.array([], pa.string()), *READERS[file.suffix](file)])
    check_ids(ids, file)
    return ids


def check_ids(ids: pa.StringArray, file: NamedFile) -> None:
    """Refuse a row without an id, and an id that came before."""
    missing = np.flatnonzero(pc.equal(ids, "").fill_null(True))
    if missing.size:
        raise UserError(f"{file} has no id in row {missing[0]} (counted from 0); give every row one")
    codes = ids.dictionary_encode().indices.to_numpy()
    repeated = np.flatnonzero(codes != np.arange(len(codes)))  # a new id's code is the number of ids before it
    if repeated.size:
        row = int(repeated[0])
        raise UserError(f"{file} has the id {ids[row].as_py()!r} in row {codes[row]} and in row {row}; ids are unique")


def json_ids(file: NamedFile) -> Iterator[pa.StringArray]:
    """A list; a number becomes the text that stands for it."""
    ids = json.loads(file.path.read_bytes(), parse_int=str, parse_float=str, parse_constant=refuse_constant)
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise UserError(f'{file} holds something else than a list of texts and numbers, such as ["a", "b"]')
    return arrays(ids)


def refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no id")


def text_ids(file: NamedFile) -> Iterator[pa.StringArray]:
    """One on each line."""
    with file.path.open(encoding="utf-8-sig") as lines:  # a byte order mark is no part of the first id
        yield from arrays(line.removesuffix("\n") for line in lines)


def npy_ids(file: NamedFile) -> Iterator[pa.StringArray]:
    """(rows,) texts, bytes of UTF-8, or whole numbers."""
    array = np.lib.format.open_memmap(file.path, mode="r")
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise UserError(f"{file} is {array.dtype} of shape {array.shape}; ids are one row of texts or whole numbers")
    for start in range(0, len(array), BATCH):
        ids = np.asarray(array[start : start + BATCH])
        yield pa.array(np.strings.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids).cast(pa.string())


def parquet_ids(file: NamedFile) -> Iterator[pa.StringArray]:
    for batch in find_column(file, is_id, "texts or whole numbers").batches(BATCH):
        yield batch.cast(pa.string())


def is_id(column: pa.DataType) -> bool:
    value = column.value_type if pa.types.is_dictionary(column) else column
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    return any(is_kind(value) for is_kind in kinds)


def arrays(ids: Iterable[str]) -> Iterator[pa.StringArray]:
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        yield pa.array(batch, pa.string())


READERS: dict[str, Callable[[NamedFile], Iterator[pa.StringArray]]] = {
    ".json": json_ids,
    ".txt": text_ids,
    ".npy": npy_ids,
    ".parquet": parquet_ids,
}

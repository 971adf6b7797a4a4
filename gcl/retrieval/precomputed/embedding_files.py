"""Embeddings from files that others wrote: .npy is mapped, .pt is mapped, .parquet is read into memory once."""

import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gcl.distributed import rank
from gcl.errors import UserError
from gcl.progress import progress_bar
from gcl.retrieval.precomputed.named_file import NamedFile, named_file, reading
from gcl.retrieval.precomputed.parquet_column import find_column
from gcl.retrieval.vectors import ArrayVectors

FLOATS = (np.float16, np.float32, np.float64)  # float64 becomes float32 block by block, as it is read
BATCH_VALUES = 1 << 20  # decoded at once from a Parquet file


def load_embeddings(setting: str, text: str) -> ArrayVectors:
    """The embeddings of the file that `setting`=`text` names, as they are.

    Raises:
        UserError: a file that is missing, unreadable, pickled, empty, or holds no (rows, dimensions) of floats.
    """
    file = named_file(setting, text, READERS)
    with reading(file):
        array = READERS[file.suffix](file)
    if array.ndim != 2:
        raise UserError(f"{file} has the shape {array.shape}; embeddings are (rows, dimensions)")
    if array.size == 0:
        raise UserError(f"{file} is empty: its shape is {array.shape}; embed at least one row")
    if array.dtype not in FLOATS:
        raise UserError(f"{file} is of type {array.dtype}; write it as float16 or float32")
    return ArrayVectors(array)


def map_npy(file: NamedFile) -> np.ndarray:
    """Mapped, never unpickled; "c" because torch warns of memory that it may not write to."""
    return np.asarray(np.lib.format.open_memmap(file.path, mode="c"))


def load_pt(file: NamedFile) -> np.ndarray:
    """A tensor, a list of rows or a dict with one tensor; mapped where the file is of torch's present format."""
    try:
        held: Any = torch.load(file.path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file.path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        # Torch's own message recommends loading it without weights_only, which would run what is in it.
        raise UserError(f"{file} holds no tensors that can be read; write them with torch.save") from error
    if isinstance(held, dict):
        held = only_tensor(held, file)
    if isinstance(held, list | tuple):
        held = stacked(held, file)
    if not isinstance(held, Tensor):
        raise UserError(f"{file} holds a {type(held).__name__}; save a tensor of (rows, dimensions)")
    tensor = held.detach()
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def only_tensor(held: dict[Any, Any], file: NamedFile) -> Tensor:
    tensors = [value for value in held.values() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise UserError(f"{file} holds a dict with {len(tensors)} tensors; save the one of the embeddings alone")
    return tensors[0]


def stacked(held: list[Any] | tuple[Any, ...], file: NamedFile) -> Tensor:
    """(rows, dimensions) of rows of shape (dimensions,) or (1, dimensions)."""
    shapes = {tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__ for row in held}
    if len(shapes) != 1 or not isinstance(held[0], Tensor):
        raise UserError(f"{file} holds a list of {', '.join(sorted(map(str, shapes))) or 'nothing'}; save equal rows")
    rows = torch.stack(list(held))
    return rows.squeeze(1) if rows.ndim == 3 else rows


def load_parquet(file: NamedFile) -> np.ndarray:
    """One copy in memory, filled batch by batch; float64 becomes float32 on the way."""
    column = find_column(file, is_float_list, "lists of floats")
    if len(column) == 0:
        return np.empty((0, 0), np.float32)
    dimensions = len(next(column.batches(1)).flatten())
    dtype = np.float16 if pa.types.is_float16(column.type.value_type) else np.float32
    array = np.empty((len(column), dimensions), dtype)
    size, start = max(1, BATCH_VALUES // max(1, dimensions)), 0
    with progress_bar(rank() == 0) as progress:
        for batch in progress.track(column.batches(size), total=-(-len(column) // size), description=f"read {file}"):
            check_lengths(batch, dimensions, start, file)
            # A null among the values becomes NaN, which is refused where the rows are looked at.
            values = batch.flatten().to_numpy(zero_copy_only=False)
            array[start : start + len(batch)] = values.reshape(len(batch), dimensions)
            start += len(batch)
    return array


def check_lengths(batch: pa.Array, dimensions: int, start: int, file: NamedFile) -> None:
    lengths = batch.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if (other := np.flatnonzero(lengths != dimensions)).size:
        row, length = start + int(other[0]), int(lengths[other[0]])
        raise UserError(f"{file} row {row} has {length} values, row 0 has {dimensions}; all rows are of one length")


def is_float_list(column: pa.DataType) -> bool:
    is_list = pa.types.is_list(column) or pa.types.is_large_list(column) or pa.types.is_fixed_size_list(column)
    return is_list and pa.types.is_floating(column.value_type)


READERS: dict[str, Callable[[NamedFile], np.ndarray]] = {".npy": map_npy, ".pt": load_pt, ".parquet": load_parquet}

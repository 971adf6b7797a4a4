"""The texts of a split on disk: read once by many processes, found again by what the shards hold.

FOLDER/rows-5be1.../000012.parquet    ROWS_AT_ONCE rows each
"""

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, Dataset

from gcl.data.record import ITEM_ID
from gcl.data.workers import told_of_workers
from gcl.distributed import barrier, from_main_process, is_main_process, rank, world_size
from gcl.errors import UserError
from gcl.progress import progress_bar
from gcl.retrieval.embeddings.joined_reader import Reader
from gcl.retrieval.embeddings.rows import ROWS_AT_ONCE, Rows, read_rows
from gcl.retrieval.embeddings.store import SHARDS, check_unchanged

FORMAT = 1  # of these files; another number, and nothing older is found
DEAD_WORKER = "the same command goes on from there, with fewer data.workers=N if it was"


class RowRanges(Dataset[pa.Table]):
    """Tables of ROWS_AT_ONCE rows, read by worker processes."""

    def __init__(self, reader: Reader, names: list[str], numbers: list[int]) -> None:
        self.reader, self.names, self.numbers = reader, names, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> pa.Table:
        start = self.numbers[index] * ROWS_AT_ONCE
        return read_rows(self.reader, range(start, min(start + ROWS_AT_ONCE, len(self.reader))), self.names)


def stored_rows(reader: Reader, names: list[str], folder: Path, workers: int) -> Rows:
    """These columns of every row, from `folder` or, where they are not there yet, from the shards.

    (All ranks participate, and share the reading.)

    Args:
        workers: worker processes that read, per process.
    """
    columns = [*dict.fromkeys([ITEM_ID, *names])]
    key = json.dumps([FORMAT, ROWS_AT_ONCE, reader.fingerprint, columns])
    place = folder / f"rows-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    files = [place / f"{number:06d}.parquet" for number in range(-(-len(reader) // ROWS_AT_ONCE))]
    if is_main_process():
        place.mkdir(parents=True, exist_ok=True)
        check_unchanged(reader, place / SHARDS)
    missing = from_main_process([number for number, file in enumerate(files) if not file.exists()])
    if not place.is_dir():
        raise UserError(f"process {rank()} does not see {place}; embeddings.folder must lie on a disk that all see")
    own = missing[rank() :: world_size()]
    tables = DataLoader(RowRanges(reader, columns, own), batch_size=None, num_workers=min(workers, len(own)))
    with progress_bar(is_main_process()) as progress, told_of_workers(DEAD_WORKER):
        tracked = progress.track(tables, total=len(own), description="read rows")
        for number, table in zip(own, tracked, strict=True):
            temporary = files[number].with_suffix(f".{os.getpid()}.tmp")
            pq.write_table(table, temporary)
            temporary.rename(files[number])
    barrier()
    try:
        return Rows(pa.concat_tables([pq.read_table(file) for file in files]))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{place} cannot be read ({error}); remove it") from error

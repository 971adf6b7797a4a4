"""Worker processes that write the chunks which are not there yet."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.progress import Progress, TaskID

from gcl.data.prepare.chunk import Chunk, ChunkResult, ChunkRules, digest_of, load_result
from gcl.errors import UserError
from gcl.progress import progress_bar

LOOK_SECONDS = 0.2  # between looks at how far the workers are
SAY_SECONDS = 60.0  # between lines on how far it is, where there is no bar


@dataclass
class Tally:
    """What has been done so far."""

    chunks: set[int] = field(default_factory=set)  # their numbers
    good: int = 0  # rows
    refused: int = 0  # rows
    is_hopeless: bool = False  # it stopped: so far every row was refused
    said: float = field(default_factory=time.monotonic)  # when a line was printed last

    def add(self, number: int, result: ChunkResult) -> None:
        self.chunks.add(number)
        self.good += sum(shard.samples for shards in result.shards.values() for shard in shards)
        self.refused += sum(refusal.count for refusal in result.refused)
        if not sys.stderr.isatty() and time.monotonic() - self.said >= SAY_SECONDS:
            print(f"{len(self.chunks)} chunks: {self.good} rows, {self.refused} refused", file=sys.stderr, flush=True)
            self.said = time.monotonic()


def write_chunks(
    chunks: Iterable[Chunk],
    folder: Path,
    rules: ChunkRules,
    workers: int | None,
    units: int,
    goes_on: Callable[[Tally], bool],
) -> Tally:
    """Have every chunk written that is not there yet, or was made from something else.

    Args:
        workers: processes; None: one for each core.
        units: of progress in all of them.
        goes_on: asked after each chunk.

    Raises:
        UserError: a worker died.
    """
    tally = Tally()
    workers = workers or len(os.sched_getaffinity(0))
    ahead = iter(chunks)
    first = list(itertools.islice(ahead, 2))
    with progress_bar() as progress:
        task = progress.add_task("prepare", total=units)
        todo = missing(itertools.chain(first, ahead), folder, rules, tally, lambda units: progress.advance(task, units))
        if workers == 1 or len(first) < 2:
            for chunk in todo:
                tally.add(chunk.number, chunk.write(folder, rules, 1, lambda: progress.advance(task)))
                if not goes_on(tally):
                    tally.is_hopeless = True
                    break
        else:
            write_with_pool(todo, folder, rules, workers, tally, goes_on, progress, task)
    return tally


def missing(
    chunks: Iterable[Chunk], folder: Path, rules: ChunkRules, tally: Tally, skipped: Callable[[int], None]
) -> Iterable[Chunk]:
    """Those that have to be written; the others are counted."""
    for chunk in chunks:
        result = load_result(folder, chunk.number)
        if result is None or result.digest != digest_of(chunk, rules):
            yield chunk
        else:
            tally.add(chunk.number, result)
            skipped(chunk.units)


def write_with_pool(
    chunks: Iterable[Chunk],
    folder: Path,
    rules: ChunkRules,
    workers: int,
    tally: Tally,
    goes_on: Callable[[Tally], bool],
    progress: Progress,
    task: TaskID,
) -> None:
    # Not forked: a source may hold threads, of DuckDB for one.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, begin_worker, (counter,))
    running: dict[Future[ChunkResult], int] = {}
    started, skipped = iter(chunks), 0
    try:
        while True:
            for chunk in itertools.islice(started, workers + 1 - len(running)):
                running[pool.submit(write_in_worker, chunk, folder, rules, workers)] = chunk.number
            if not running:
                return
            done, _ = wait(running, LOOK_SECONDS, FIRST_COMPLETED)
            rows_done = counter.get_obj().value  # without its lock, which a worker that was killed may hold
            progress.advance(task, rows_done - skipped)
            skipped = rows_done
            for future in done:
                tally.add(running.pop(future), future.result())
            if not goes_on(tally):
                tally.is_hopeless = True
                return
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker died while it wrote to {folder}, perhaps for want of memory; the same command goes on from "
            "there, with fewer workers=N if it was"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if running:
            for process in multiprocessing.active_children():
                process.terminate()
                process.join()


_rows_done: "Synchronized[int] | None" = None  # of a worker process: shared with the main process


def begin_worker(rows_done: "Synchronized[int]") -> None:
    global _rows_done
    _rows_done = rows_done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the workers
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """End this worker when the main process was killed, so that it does not write beside the next one's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def write_in_worker(chunk: Chunk, folder: Path, rules: ChunkRules, workers: int) -> ChunkResult:
    rows_done = _rows_done
    assert rows_done is not None

    def advance() -> None:
        with rows_done.get_lock():
            rows_done.value += 1

    return chunk.write(folder, rules, workers, advance)

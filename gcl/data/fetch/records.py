"""The images of rows: each file or web address becomes bytes that are checked and in the form they are kept in.

A row of which one image cannot be had is refused; the reasons are listed in image_error.py.
"""

import asyncio
import threading
from collections.abc import Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from gcl.data.fetch.address import IS_URL
from gcl.data.fetch.download import ImageDownloader
from gcl.data.fetch.error import ImageError
from gcl.data.fetch.reencode import kept_image
from gcl.data.record import Record, Refusal, SourceRow
from gcl.errors import UserError

T = TypeVar("T")
# Rows are read ahead so that one slow image does not hold up the others, until this much waits for its turn.
LOOK_AHEAD = 512  # rows
HELD_BYTES = 64_000_000  # of finished images
ROWS_PER_CONNECTION = 2  # that are worked on: some wait for a pause to end, or for the decoder
RECENT = 16  # downloads kept for the next rows: those of one product, with other queries, name the same address
DETAIL = 600  # characters


@dataclass
class ImageSettings:
    """How images are fetched, and in what form they are kept."""

    short_side: int | None = 512  # pixels; an image with a longer short side is scaled down to it; null: kept as it is
    quality: int = 90  # JPEG quality of images that are scaled down, 1 to 95
    max_megabytes: float = 20.0  # MB; a larger image file is refused
    timeout_seconds: float = 20.0  # seconds that a web server may take for one image, in one try
    retries: int = 3  # tries after the first, when a web server does not answer or is busy
    connections: int = 64  # downloads at the same time, of all workers together; each worker has one at least
    connections_per_host: int = 16  # of them, from one host
    allow_private_addresses: bool = False  # true: also download from this machine and the local network

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise UserError(
                f"images.short_side is {self.short_side}; it must be at least 1 pixel, or null to scale nothing"
            )
        if not 1 <= self.quality <= 95:
            raise UserError(f"images.quality is {self.quality}; JPEG's lies between 1 and 95")
        if self.retries < 0:
            raise UserError(f"images.retries is {self.retries}; it must be 0 or more")
        for name in ("max_megabytes", "timeout_seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"images.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("connections", "connections_per_host"):
            if getattr(self, name) < 1:
                raise UserError(f"images.{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def max_bytes(self) -> int:
        return int(self.max_megabytes * 1e6)


def fetch_records(
    rows: Iterable[SourceRow | Refusal], folder: Path | None, settings: ImageSettings, workers: int = 1
) -> Generator[Record | Refusal, None, None]:
    """Each row with its images, in order; the images of the next rows are fetched meanwhile.

    Every image of a record has been decoded to its last byte. An image field without a candidate is left out. Refusals
    go through. Memory is bounded: HELD_BYTES, and the images of ROWS_PER_CONNECTION rows for each connection.

    Args:
        folder: what paths are relative to and must stay inside of; None: the source names no paths.
        workers: processes among which the connections are shared.
    """
    with ImageFetcher(folder, settings, workers) as fetcher:
        yield from _in_order(iter(rows), fetcher, ROWS_PER_CONNECTION * share(settings.connections, workers))


def share(connections: int, workers: int) -> int:
    """The connections of one of so many workers."""
    return max(connections // workers, 1)


def _in_order(
    rows: Iterator[SourceRow | Refusal], fetcher: "ImageFetcher", max_at_work: int
) -> Iterator[Record | Refusal]:
    finished: SimpleQueue[tuple[int, Future[Record | Refusal]]] = SimpleQueue()
    ready: dict[int, Record | Refusal] = {}  # by number; they wait for an earlier one, or for the caller
    begun = at_work = number = held = 0
    row = next(rows, None)
    while row is not None or number < begun:
        while row is not None and at_work < max_at_work and begun - number < LOOK_AHEAD and held < HELD_BYTES:
            if isinstance(row, SourceRow) and is_remote(row):
                fetcher.begin(row).add_done_callback(partial(_put, finished, begun))
                at_work += 1
            else:
                ready[begun] = row if isinstance(row, Refusal) else fetcher.record_of_files(row)
                held += _bytes_of(ready[begun])
            begun += 1
            row = next(rows, None)
            if number in ready and begun - 1 in ready:  # files are read as they are wanted, not far ahead
                break
        if number in ready:
            held -= _bytes_of(ready[number])
            yield ready.pop(number)
            number += 1
        if at_work and (number not in ready or not finished.empty()):
            place, future = finished.get()
            ready[place] = future.result()
            held += _bytes_of(ready[place])
            at_work -= 1


def _put(finished: SimpleQueue[tuple[int, Future[T]]], place: int, future: Future[T]) -> None:
    finished.put((place, future))


def is_remote(row: SourceRow) -> bool:
    """Whether the row names an image by web address."""
    return any(is_address(candidate) for candidates in row.images.values() for candidate in candidates)


def is_address(candidate: bytes | str) -> bool:
    return isinstance(candidate, str) and IS_URL.match(candidate) is not None


def _bytes_of(result: Record | Refusal) -> int:
    return sum(map(len, result.images.values())) if isinstance(result, Record) else 0


class ImageFetcher:
    """Makes rows into records, many at a time: downloads in the event loop of one thread, decodes in another."""

    def __init__(self, folder: Path | None, settings: ImageSettings, workers: int) -> None:
        self._folder, self._settings = folder and folder.resolve(), settings
        self._downloader = ImageDownloader(
            max_bytes=settings.max_bytes,
            timeout_seconds=settings.timeout_seconds,
            retries=settings.retries,
            connections=share(settings.connections, workers),
            connections_per_host=share(settings.connections_per_host, workers),
            allow_private_addresses=settings.allow_private_addresses,
        )
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._loop = asyncio.new_event_loop()
        self._recent: dict[str, asyncio.Task[bytes]] = {}  # by address, in the order of their beginning
        self._thread = threading.Thread(target=self._loop.run_forever, name="download", daemon=True)

    def __enter__(self) -> "ImageFetcher":
        self._thread.start()
        self._run(self._downloader.open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(cancel_others())
        self._run(self._downloader.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._decoder.shutdown(cancel_futures=True)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def record_of_files(self, row: SourceRow) -> Record | Refusal:
        """A row that names no web address, done in the caller's thread: the way through the others costs as much."""
        try:
            self._record(row).send(None)
        except StopIteration as done:  # so a coroutine returns, one that never waits at once
            return cast(Record | Refusal, done.value)
        raise AssertionError("only a download waits")

    def begin(self, row: SourceRow) -> Future[Record | Refusal]:
        """Any row, done meanwhile."""
        return asyncio.run_coroutine_threadsafe(self._record(row), self._loop)

    async def _record(self, row: SourceRow) -> Record | Refusal:
        images = {}
        for name, candidates in row.images.items():
            if candidates:
                try:
                    images[name] = await self._first_good(candidates)
                except ImageError as error:
                    return Refusal(row.origin, error.reason, f"{name}: {error.detail}"[:DETAIL])
        return Record(row.fields, images, row.origin)

    async def _first_good(self, candidates: tuple[bytes | str, ...]) -> bytes:
        """The first candidate that is a whole image; where none is, the reason of the last."""
        errors: list[ImageError] = []
        for candidate in candidates:
            try:
                return await self._image(candidate)
            except ImageError as error:
                errors.append(error)
        details = errors[0].detail if len(errors) == 1 else "; ".join(map(str, errors))
        raise ImageError(errors[-1].reason, details)

    async def _image(self, candidate: bytes | str) -> bytes:
        if threading.current_thread() is not self._thread:
            return self._kept(candidate)
        if isinstance(candidate, bytes) or not is_address(candidate):
            return await self._loop.run_in_executor(self._decoder, self._kept, candidate)
        if candidate not in self._recent:
            self._recent[candidate] = self._loop.create_task(self._downloaded(candidate))
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return await self._recent[candidate]

    async def _downloaded(self, address: str) -> bytes:
        content = await self._downloader.download(address)
        return await self._loop.run_in_executor(self._decoder, self._kept, content)

    def _kept(self, candidate: bytes | str) -> bytes:
        """A file, or what a row or a server brought, in the form it is kept in."""
        settings = self._settings
        if isinstance(candidate, str):
            candidate = read_image_file(self._folder, candidate, settings.max_bytes)
        if len(candidate) > settings.max_bytes:
            raise ImageError("image too large", f"{len(candidate)} bytes, at most {settings.max_bytes} are read")
        return kept_image(candidate, settings.short_side, settings.quality)


async def cancel_others() -> None:
    """End what is still under way, and wait for its end."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def read_image_file(folder: Path | None, name: str, max_bytes: int) -> bytes:
    """The file `name`, relative to `folder` (resolved) and inside it after symbolic links are followed.

    Raises:
        ImageError: "image outside the source", "missing image" or "image too large".
    """
    if folder is None:
        raise ImageError("image outside the source", f"{name[:200]}: this source's images are no files")
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ImageError("image outside the source", f"{name[:200]}: images must lie below {folder}")
        if not path.is_file():
            raise ImageError("missing image", name[:200])
        if path.stat().st_size > max_bytes:
            raise ImageError("image too large", f"{name}: {path.stat().st_size} bytes, at most {max_bytes} are read")
        encoded = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a zero byte, a loop of links
        raise ImageError("missing image", f"{name[:200]}: {cause(error)}") from error
    if not encoded:
        raise ImageError("missing image", f"{name}: an empty file")
    return encoded


def cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]

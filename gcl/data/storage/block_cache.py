"""Blocks of remote files on local disk, fetched once for all processes of a machine, those unused for longest removed.

FOLDER/blocks/NAME     blocks, bounded in bytes; the time of change is the time of last use
FOLDER/files/NAME      whole small files, not bounded: 8 bytes for each sample
FOLDER/locks/          held by whoever fetches; the kernel lets go of those of a process that was killed
FOLDER/used            how many bytes the blocks take
"""

import contextlib
import fcntl
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gcl.errors import UserError

BLOCKS, FILES, LOCKS, USED = "blocks", "files", "locks", "used"
LOCK_FILES = 4096  # blocks that share one wait for each other, which costs a little time and nothing else
POLL_SECONDS = 0.02  # between two looks at a lock that another process holds
TOUCH_SECONDS = 5.0  # uses of a block closer together than this count as one
FORGOTTEN_SECONDS = 3600.0  # after which a file that nobody finished writing is removed
FULL = 0.9  # of the limit is what stays when there is too much
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class BlockCache:
    """A folder of blocks. Any number of threads and processes may use it, and any of them may die.

    Raises:
        UserError: the folder cannot be made or written.
    """

    folder: Path
    limit_bytes: int
    wait_seconds: float  # for another process that fetches the same block; then it is fetched twice

    def __post_init__(self) -> None:
        with self._writing():
            for part in (BLOCKS, FILES, LOCKS):
                (self.folder / part).mkdir(parents=True, exist_ok=True)

    def read(self, name: str, length: int, start: int, end: int, fetch: Callable[[], bytes]) -> bytes:
        """The bytes from `start` to `end` of a block of `length` bytes, which `fetch` gets if it is not here."""
        path = self.folder / BLOCKS / name
        if (content := stored(path, length, start, end)) is not None:
            return content
        with self._lock(name, self.wait_seconds):
            if (content := stored(path, length, start, end)) is not None:
                return content
            block = fetch()
            self._write(path, block)
        # Not read back: it may have been removed again by now.
        return block[start:end]

    def fetch_ahead(self, name: str, length: int, fetch: Callable[[], bytes]) -> None:
        """Get a block that will be read soon, unless it is here or somebody is getting it."""
        path = self.folder / BLOCKS / name
        if not has_length(path, length):
            with self._lock(name, 0.0) as is_held:
                if is_held and not has_length(path, length):
                    self._write(path, fetch())

    def file(self, name: str, length: int, fetch: Callable[[], bytes]) -> Path:
        """Where a whole file of `length` bytes is, which `fetch` gets if it is not here."""
        path = self.folder / FILES / name
        if not has_length(path, length):
            with self._lock(name, self.wait_seconds):
                if not has_length(path, length):
                    self._write(path, fetch())
        return path

    def _write(self, path: Path, content: bytes) -> None:
        with self._writing():
            descriptor, temporary = tempfile.mkstemp(suffix=TEMPORARY, dir=path.parent)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                if path.parent.name == BLOCKS:
                    self._make_room(len(content))
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise

    def _make_room(self, added: int) -> None:
        """Count bytes that are about to become a block, and remove others if that is too much."""
        with locked(self.folder / USED, self.wait_seconds) as (descriptor, _):
            used = int(os.pread(descriptor, 20, 0) or self.limit_bytes) + added  # not known yet: count them
            if used > self.limit_bytes:
                used = self._remove_oldest()
            os.pwrite(descriptor, f"{used:020d}".encode(), 0)

    def _remove_oldest(self) -> int:
        """Remove the blocks that were not used for longest; how many bytes stay."""
        found = []
        with os.scandir(self.folder / BLOCKS) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        used = sum(size for _, size, _ in found)
        if used <= self.limit_bytes:
            return used
        for last_use, size, path in sorted(found):
            if used <= FULL * self.limit_bytes:
                break
            if path.endswith(TEMPORARY) and last_use > time.time() - FORGOTTEN_SECONDS:
                continue
            # Whoever has it open reads on.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        return used

    @contextlib.contextmanager
    def _lock(self, name: str, wait_seconds: float) -> Iterator[bool]:
        with contextlib.ExitStack() as stack:
            with self._writing():
                lock = self.folder / LOCKS / str(zlib.crc32(name.encode()) % LOCK_FILES)
                _, is_held = stack.enter_context(locked(lock, wait_seconds))
            yield is_held

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the cache {self.folder} cannot be written ({error.strerror or error}); set data.cache.folder to a "
                "folder on a larger local disk, or data.cache.gigabytes to less"
            ) from error


def stored(path: Path, length: int, start: int, end: int) -> bytes | None:
    """The bytes from `start` to `end` of a file that must have `length` bytes, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_size != length:
            return None
        if time.time() - status.st_mtime > TOUCH_SECONDS:
            with contextlib.suppress(PermissionError):  # another user's, in a folder of many
                os.utime(descriptor)
        content = os.pread(descriptor, end - start, start)
        return content if len(content) == end - start else None
    finally:
        os.close(descriptor)


def has_length(path: Path, length: int) -> bool:
    try:
        return path.stat().st_size == length
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float) -> Iterator[tuple[int, bool]]:
    """The open lock file, and whether the lock could be had within `wait_seconds`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + wait_seconds
    try:
        while not (is_held := try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        yield descriptor, is_held
    finally:
        # By name, for a process forked meanwhile has the descriptor too, and with it the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

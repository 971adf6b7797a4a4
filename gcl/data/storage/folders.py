"""Where shards lie: a local folder, or one in a bucket, on a web server or on the Hub."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gcl.data.storage.block_cache import BlockCache
from gcl.data.storage.patience import Patience
from gcl.data.storage.remote_folder import RemoteFolder, check_name
from gcl.data.storage.temporary_folder import temporary_folder
from gcl.errors import UserError

# Errors of a local disk that another try will not mend; a network disk has others.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
LOCAL_PATIENCE = Patience(tries=3)


@dataclass(frozen=True)
class CacheSettings:
    """Where blocks of remote shards are kept."""

    folder: str | None = None  # folder for blocks of remote shards, kept between runs; null: a temporary one
    gigabytes: float = 20.0  # GB of blocks at most; those unused for longest go first

    def __post_init__(self) -> None:
        if not self.gigabytes >= 1:
            raise UserError(f"data.cache.gigabytes={self.gigabytes} must be at least 1")


class Storage(Protocol):
    """The files of one folder, by plain name.

    Raises:
        UserError: from each method, where a file cannot be read, naming it and the place; or its name is none.
    """

    @property
    def place(self) -> str:
        """The folder, for messages: without secrets."""
        ...

    def read(self, file: str, start: int, end: int) -> bytes:
        """Exactly the bytes from `start` to `end`."""
        ...

    def read_all(self, file: str) -> bytes:
        """A small file, as it is now."""
        ...

    def local_file(self, file: str) -> Path:
        """A small file on local disk."""
        ...

    def size(self, file: str) -> int | None:
        """In bytes; None where there is no such file."""
        ...

    def expect(self, sizes: dict[str, int]) -> None:
        """Refuse files of other sizes than these: at once where that is quick, else when they are read."""
        ...

    def prefetch(self, ranges: list[tuple[str, int, int]]) -> None:
        """Begin to fetch what will be read soon: file, start, end. Does not wait, and raises nothing of the network."""
        ...


class LocalFolder:
    """A `Storage` on a disk of this machine, or one that looks like it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder)

    def read(self, file: str, start: int, end: int) -> bytes:
        content = self._try(file, lambda path: pread(path, start, end))
        if len(content) != end - start:
            raise UserError(
                f"{self._path(file)} ends before byte {end}, which is to be read; copy it or prepare it again"
            )
        return content

    def read_all(self, file: str) -> bytes:
        return self._try(file, Path.read_bytes)

    def local_file(self, file: str) -> Path:
        return self._path(file)

    def size(self, file: str) -> int | None:
        path = self._path(file)
        return path.stat().st_size if path.is_file() else None

    def expect(self, sizes: dict[str, int]) -> None:
        for file, expected in sizes.items():
            size = self.size(file)
            if size is None:
                raise UserError(f"{self._path(file)} is missing; copy it back or run gcl prepare again")
            if size != expected:
                raise UserError(
                    f"{self._path(file)} has {size} bytes where {expected} were written; copy it again or run gcl "
                    "prepare again"
                )

    def prefetch(self, ranges: list[tuple[str, int, int]]) -> None:
        """Nothing: the kernel reads ahead."""

    def _path(self, file: str) -> Path:
        return self.folder / check_name(file, self.place)

    def _try(self, file: str, read: Callable[[Path], bytes]) -> bytes:
        path = self._path(file)
        try:
            return LOCAL_PATIENCE.call(lambda: read(path), lambda error: isinstance(error, FINAL))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}); copy it again") from error


def pread(path: Path, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`, or fewer where the file ends before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, end - start, start)
    finally:
        os.close(descriptor)


def is_remote(path: str) -> bool:
    """Whether this is a web address, of whatever kind."""
    return "://" in path


def build_storage(path: str | Path, cache: CacheSettings = CacheSettings()) -> Storage:
    """The storage at a path or an address.

    Raises:
        UserError: an address that cannot be, or a cache that cannot be made.
    """
    if not is_remote(str(path)):
        return LocalFolder(Path(path).expanduser())
    patience = Patience()
    if cache.folder:
        folder, share = Path(cache.folder).expanduser().resolve(), 1
    else:
        # Each process of a machine has its own temporary folder, for none knows when the others end.
        folder, share = temporary_folder(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Whoever fetches a block may try this long before another process does it too.
    blocks = BlockCache(folder, int(cache.gigabytes * 1e9 / share), patience.longest_seconds)
    return RemoteFolder(str(path), blocks, patience)

"""Shards in a bucket or on a web server: read by blocks, which all processes of a machine share on local disk."""

import hashlib
import time
from pathlib import Path

from gcl.data.storage.block_cache import BlockCache
from gcl.data.storage.object_store import Found, ObjectStore
from gcl.data.storage.patience import Patience
from gcl.data.storage.read_ahead import ReadAhead
from gcl.errors import UserError

BLOCK_BYTES = 4 * 1024**2
CHECK_SECONDS = 60.0  # after which a file's size and version are asked for again, before a block of it is fetched


class RemoteFolder:
    """A `Storage` whose files are at a web address. It may be forked, and sent to other processes.

    Args:
        found: what is known already of its files, and when that was asked.
        expected: the sizes that they must have.
    """

    def __init__(
        self,
        address: str,
        cache: BlockCache,
        patience: Patience,
        found: dict[str, tuple[Found, float]] | None = None,
        expected: dict[str, int] | None = None,
    ) -> None:
        self.address, self.cache, self.patience = address, cache, patience
        self.store = ObjectStore(address, patience)
        self.place = self.store.place
        self._found, self._expected = found or {}, expected or {}
        self._read_ahead: ReadAhead[tuple[str, int]] = ReadAhead(self._fetch_ahead)

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteFolder, (self.address, self.cache, self.patience, self._found, self._expected)

    def read(self, file: str, start: int, end: int) -> bytes:
        found = self._find(file)
        if not 0 <= start <= end <= found.size:
            raise UserError(
                f"{self.store.named(file)} has {found.size} bytes where bytes {start} to {end} are to be read; "
                "copy it there again, or run gcl prepare again"
            )
        return b"".join(self._read_block(file, found, block, start, end) for block in blocks(start, end))

    def read_all(self, file: str) -> bytes:
        return self.store.whole(check_name(file, self.place))

    def local_file(self, file: str) -> Path:
        found = self._find(file)

        def fetch() -> bytes:
            return b"".join(self._fetch(file, found, block, self.patience) for block in blocks(0, found.size))

        return self.cache.file(self._name(file, found), found.size, fetch)

    def size(self, file: str) -> int | None:
        if check_name(file, self.place) not in self._found:
            found = self.store.look_up(file)
            if found is None:
                return None
            self._found[file] = found, time.monotonic()
        return self._found[file][0].size

    def expect(self, sizes: dict[str, int]) -> None:
        """Each is looked at when it is first read: to ask for thousands would take long."""
        self._expected = {**self._expected, **sizes}

    def prefetch(self, ranges: list[tuple[str, int, int]]) -> None:
        self._read_ahead.add(
            (check_name(file, self.place), block) for file, start, end in ranges for block in blocks(start, end)
        )

    def _find(self, file: str) -> Found:
        size = self.size(file)
        if size is None:
            raise self.store.missing(file)
        if size != self._expected.get(file, size):
            raise UserError(
                f"{self.store.named(file)} has {size} bytes where {self._expected[file]} were written; copy it "
                "there again or run gcl prepare again"
            )
        return self._found[file][0]

    def _name(self, file: str, found: Found, block: int | None = None) -> str:
        key = f"{self.place}\n{file}\n{found.size}\n{found.version}\n{BLOCK_BYTES}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        return digest if block is None else f"{digest}-{block:06d}"

    def _read_block(self, file: str, found: Found, block: int, start: int, end: int) -> bytes:
        first = block * BLOCK_BYTES
        return self.cache.read(
            self._name(file, found, block),
            block_length(found, block),
            max(start - first, 0),
            min(end - first, BLOCK_BYTES),
            lambda: self._fetch(file, found, block, self.patience),
        )

    def _fetch_ahead(self, item: tuple[str, int]) -> None:
        file, block = item
        found = self._find(file)
        once = Patience(1, self.patience.try_seconds)  # whoever reads it tries again
        self.cache.fetch_ahead(
            self._name(file, found, block),
            block_length(found, block),
            lambda: self._fetch(file, found, block, once),
        )

    def _fetch(self, file: str, found: Found, block: int, patience: Patience) -> bytes:
        if time.monotonic() - self._found[file][1] > CHECK_SECONDS:
            self._check_unchanged(file, found)
        first = block * BLOCK_BYTES
        return self.store.range(file, first, first + block_length(found, block), patience)

    def _check_unchanged(self, file: str, found: Found) -> None:
        """Offsets into a file that is replaced while it is read would be those of other samples."""
        now = self.store.look_up(file, again=True)
        if now is None:
            raise self.store.missing(file)
        if now != found:
            raise UserError(
                f"{self.store.named(file)} changed while it was read ({found.size} bytes, now {now.size}); put "
                "the old one back, or start a new run"
            )
        self._found[file] = found, time.monotonic()


def blocks(start: int, end: int) -> range:
    """The numbers of the blocks with the bytes from `start` to `end`."""
    return range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))


def block_length(found: Found, block: int) -> int:
    return max(min(BLOCK_BYTES, found.size - block * BLOCK_BYTES), 0)


def check_name(file: str, place: str) -> str:
    """`file`, if it is the name of a file in its folder and nothing else.

    Raises:
        UserError: it would lead elsewhere.
    """
    if not file or file in (".", "..") or any(character in file for character in "/\\\0\r\n"):
        raise UserError(f"file {file!r} of {place} must be a plain name in that folder; run gcl prepare again")
    return file

"""Files in a bucket or on a web server through fsspec: looked up and read by range, with tries and a time limit."""

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from gcl import __version__
from gcl.data.fetch.download import certificates
from gcl.data.storage.patience import Patience
from gcl.errors import UserError

Result = TypeVar("Result")
PACKAGES = {  # that fsspec needs for each kind of address
    "s3": "s3fs",
    "gs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
WEB = ("http", "https")
# Whichever of these a store gives changes with the file's content.
VERSIONS = ("ETag", "etag", "generation", "xet_hash", "blob_id", "md5Hash", "Last-Modified", "LastModified", "mtime")
GONE = (404, 410)
WORTH_ANOTHER_TRY = (408, 425, 429)  # of the answers that blame the request
QUERY = re.compile(r"(\w+://[^\s'\"?]*)\?[^\s'\")]*")
USER = re.compile(r"(\w+://)[^\s'\"/?]*@")


@dataclass(frozen=True)
class Found:
    """What a store says about a file."""

    size: int  # bytes
    version: str  # changes with the content, where the store says anything that does


class ObjectStore:
    """The files of one remote folder.

    Raises:
        UserError: an address of an unknown kind or with a password, or a package that is missing.
    """

    def __init__(self, address: str, patience: Patience) -> None:
        self.address, self.patience = address, patience
        self.parts = urlsplit(address)
        if self.parts.scheme not in PACKAGES:
            kinds = ", ".join(f"{kind}://" for kind in PACKAGES)
            raise UserError(f"{without_secrets(address)} must begin with one of {kinds}, or be a local folder as such")
        if "@" in self.parts.netloc:
            raise UserError(
                f"{without_secrets(address)} was given with a user or password; leave them out of the address and put "
                "them where its kind looks for them (~/.netrc, the AWS or Google environment variables)"
            )
        try:
            self._kind = fsspec.get_filesystem_class(self.parts.scheme)
        except ImportError as error:
            package = PACKAGES[self.parts.scheme]
            raise UserError(f"{self.place} cannot be read without {package}: pip install '{package}'") from error
        # By process: connections and fsspec's event loop do not survive a fork. The parent's stay here unused, for to
        # collect one is to close connections that the parent reads from.
        self._file_systems: dict[int, fsspec.AbstractFileSystem] = {}

    @property
    def place(self) -> str:
        """The address for messages."""
        return urlunsplit((self.parts.scheme, self.parts.netloc, self.parts.path.rstrip("/"), "", ""))

    def named(self, file: str) -> str:
        """A file for messages."""
        return f"{'shard ' if file.endswith('.tar') else ''}{self.place}/{file}"

    def look_up(self, file: str, again: bool = False) -> Found | None:
        """Size and version of a file, asked for `again` if they may be known; None where it is not there."""
        if again and (file_system := self._file_systems.get(os.getpid())):
            file_system.invalidate_cache()
        try:
            info = self._try(file, "info", self.patience)
        except FileNotFoundError:
            return None
        if info["type"] != "file":
            return None
        if info["size"] is None:
            raise UserError(
                f"the server of {self.named(file)} does not say how large it is; copy the folder to a local disk"
            )
        version = next((f"{key}={info[key]}" for key in VERSIONS if info.get(key)), "")
        return Found(int(info["size"]), version)

    def whole(self, file: str) -> bytes:
        """All bytes of a small file."""
        try:
            content: bytes = self._try(file, "cat_file", self.patience)
            return content
        except FileNotFoundError:
            raise self.missing(file) from None

    def range(self, file: str, start: int, end: int, patience: Patience | None = None) -> bytes:
        """Exactly the bytes from `start` to `end`."""

        def check(content: bytes) -> None:
            if len(content) != end - start:
                raise OSError(f"{len(content)} bytes came where {end - start} were asked for")

        # Only open() of file systems without async_impl takes a cache, which would read on past the end.
        options = {} if self._is_async else {"cache_type": "none"}
        try:
            content: bytes = self._try(
                file, "cat_file", patience or self.patience, check, start=start, end=end, **options
            )
            return content
        except FileNotFoundError:
            raise self.missing(file) from None

    def missing(self, file: str) -> UserError:
        return UserError(f"{self.named(file)} is not there; copy it there, or run gcl prepare again")

    @property
    def _is_async(self) -> bool:
        return issubclass(self._kind, AsyncFileSystem)

    def _try(
        self,
        file: str,
        method: str,
        patience: Patience,
        check: Callable[[Any], None] = lambda result: None,
        **options: object,
    ) -> Any:
        """What a method of the file system answers.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it could not be read, after all tries.
        """

        def action() -> Any:
            result = self._call(method, self._address(file), patience.try_seconds, **options)
            check(result)
            return result

        try:
            return patience.call(action, is_final)
        except Exception as error:  # of whichever package speaks to this store
            if is_missing(error):
                raise FileNotFoundError(file) from None
            tries = "" if is_final(error) else f" after {patience.tries} tries"
            # Without its cause, whose own text may hold a signed address.
            raise UserError(
                f"{self.named(file)} cannot be read ({reason(error, patience)}){tries}; check the network "
                "and that you may read it, or copy the folder to a local disk"
            ) from None

    def _call(self, method: str, path: str, seconds: float, **options: object) -> Any:
        file_system = self._file_systems.get(os.getpid())
        if file_system is None:
            # Within the limit too: looking for credentials may ask a server.
            file_system = self._file_systems.setdefault(os.getpid(), within(seconds, self._build))
        if self._is_async:
            return sync(file_system.loop, getattr(file_system, f"_{method}"), path, timeout=seconds, **options)
        return within(seconds, lambda: getattr(file_system, method)(path, **options))

    def _build(self) -> fsspec.AbstractFileSystem:
        options = {"encoded": True, "get_client": web_client} if self.parts.scheme in WEB else {}
        return fsspec.filesystem(self.parts.scheme, skip_instance_cache=True, use_listings_cache=False, **options)

    def _address(self, file: str) -> str:
        if self.parts.scheme not in WEB:
            return f"{self.address.rstrip('/')}/{file}"
        path = quote(self.parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~") + "/" + quote(file)
        return urlunsplit((self.parts.scheme, self.parts.netloc, path, self.parts.query, ""))


async def web_client(**options: Any) -> aiohttp.ClientSession:
    """fsspec's client, which would swallow a whole shard where a server ignores the range that was asked for."""
    # trust_env: proxies and ~/.netrc.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=certificates()),
        middlewares=[refuse_other_ranges],
        trust_env=True,
        headers={"Accept-Encoding": "identity", "User-Agent": f"gcl/{__version__}"},
        **options,
    )


async def refuse_other_ranges(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Look at an answer before its body is read."""
    response = await send(request)
    if "Range" not in request.headers or response.status not in (200, 206):
        return response
    start, end = (int(number) for number in request.headers["Range"].removeprefix("bytes=").split("-"))
    if response.status == 206:
        is_asked = response.headers.get("Content-Range", "").startswith(f"bytes {start}-{end}/")
    else:
        is_asked = start == 0 and response.content_length == end + 1  # the whole file, which was asked for
    if not is_asked:
        response.close()
        raise OSError("the server ignores byte ranges: other bytes came than were asked for")
    return response


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What `call` returns, or TimeoutError; then its thread is left to end by itself."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="gcl object store").start()
    return future.result(seconds)


def is_missing(error: Exception) -> bool:
    """Whether the file is not there, as opposed to out of reach for now: fsspec's HTTP says one word for both."""
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    return cause is None or (isinstance(cause, aiohttp.ClientResponseError) and cause.status in GONE)


def is_final(error: Exception) -> bool:
    """Whether another try is no use."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, aiohttp.ClientResponseError):
        error = error.__cause__
    if isinstance(error, aiohttp.ClientResponseError):
        return 400 <= error.status < 500 and error.status not in WORTH_ANOTHER_TRY
    return isinstance(error, PermissionError) or is_missing(error)


def reason(error: Exception, patience: Patience) -> str:
    """What went wrong, in a few words without secrets."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, TimeoutError):
        return f"no answer within {patience.try_seconds:g} s"
    return f"{type(error).__name__}: {without_secrets(' '.join(str(error).split()))[:200]}"


def without_secrets(text: str) -> str:
    """`text`, its addresses without query strings, users and passwords."""
    return USER.sub(r"\1", QUERY.sub(r"\1", text))

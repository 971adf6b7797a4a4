"""Downloads images: many at the same time, patient with servers in trouble, and never more than is allowed.

Runs inside one event loop. Not done, each for a reason: no proxy and no cookies (the connection goes to an address
that was checked, and to nobody else), no compressed answers asked for (an image is compressed already).
"""

import asyncio
import functools
import math
import random
import socket
import ssl
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
import certifi
from yarl import URL

from gcl import __version__
from gcl.data.fetch.address import PublicResolver, check_literal, parse_address, shown
from gcl.data.fetch.error import ImageError, Reason
from gcl.data.fetch.reencode import HEAD, refusal_of_head

HEADERS = {
    "User-Agent": f"gcl/{__version__}",
    "Accept": "image/jpeg, image/png, image/webp, image/gif",
    "Accept-Encoding": "identity",
}
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
BUSY = frozenset({408, 425, 429})
FIRST_PAUSE_SECONDS = 0.5  # before the second try; twice as long each time, give or take a half
LONGEST_PAUSE_SECONDS = 30.0  # a server that asks for more patience is not asked again
GIVE_UP_AFTER = 20  # images in a row of which no try had an answer: the host is not asked again
KEEP_ALIVE_SECONDS = 1.0  # short, because a list of images may name thousands of hosts
DNS_SECONDS = 300  # for which an answer is remembered
GZIP = b"\x1f\x8b"
NO_ANSWER = frozenset({"image server unreachable", "image download timed out"})
NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass
class Host:
    """What is known of one host."""

    slots: asyncio.Semaphore  # as many as there may be connections to it
    resume_at: float = 0.0  # monotonic time before which it wants no more requests
    unanswered: int = 0  # images in a row of which no try had an answer


class PassingError(ImageError):
    """A failure that may pass.

    Args:
        pause_seconds: before the next try; None: a growing pause; infinity: another try is no use.
    """

    def __init__(self, reason: Reason, detail: str, pause_seconds: float | None = None) -> None:
        super().__init__(reason, detail)
        self.pause_seconds = pause_seconds
        self.host: Host | None = None  # where it happened, known once the request is over


class ImageDownloader:
    """Downloads over http and https, up to `connections` at the same time.

    Args:
        max_bytes: of one image.
        timeout_seconds: of one try, redirects and all; the wait for a free connection not counted.
        retries: tries after the first.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_seconds: float,
        retries: int,
        connections: int,
        connections_per_host: int,
        allow_private_addresses: bool,
    ) -> None:
        self._max_bytes, self._timeout_seconds, self._retries = max_bytes, timeout_seconds, retries
        self._allow_private_addresses = allow_private_addresses
        # Counted here and not by aiohttp, whose clock already runs while a request waits for its connection.
        self._connections = asyncio.Semaphore(connections)
        self._hosts: defaultdict[str, Host] = defaultdict(lambda: Host(asyncio.Semaphore(connections_per_host)))

    async def open(self) -> None:
        """Must be called once, inside the event loop, before the first download."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                ttl_dns_cache=DNS_SECONDS,
                resolver=aiohttp.ThreadedResolver() if self._allow_private_addresses else PublicResolver(),
                ssl=certificates(),
            ),
            headers=HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def download(self, address: str) -> bytes:
        """The bytes behind `address`: at most `max_bytes`, and their first ones are an image's.

        Raises:
            ImageError: with the reason of the last try.
        """
        url = parse_address(address)
        for number in range(self._retries + 1):
            try:
                return await self._try_once(url)
            except PassingError as error:
                pause = error.pause_seconds or FIRST_PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.5)
                if number == self._retries or pause > LONGEST_PAUSE_SECONDS:
                    if error.host and error.reason in NO_ANSWER:
                        error.host.unanswered += 1
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _try_once(self, url: URL) -> bytes:
        """The image at `url`, redirects followed, each address checked like the first."""
        seconds_left = self._timeout_seconds
        for _ in range(MAX_REDIRECTS + 1):
            if not self._allow_private_addresses:
                check_literal(url)
            async with self._connection(url):
                started = time.monotonic()
                answer = await self._request(url, seconds_left)
                seconds_left -= time.monotonic() - started
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise ImageError("too many redirects", f"{shown(url)}: {MAX_REDIRECTS} redirects led to one more")

    @asynccontextmanager
    async def _connection(self, url: URL) -> AsyncIterator[None]:
        """The right to one connection to the host of `url`; what comes of it is remembered of the host."""
        host = self._hosts[(url.raw_host or "").lower()]
        async with host.slots:
            while (seconds := host.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            async with self._connections:  # of all hosts
                if host.unanswered >= GIVE_UP_AFTER:
                    said = f"{shown(url)}: {GIVE_UP_AFTER} images in a row had no answer from this host"
                    raise ImageError("image server given up", said)
                try:
                    yield
                    host.unanswered = 0
                except ImageError as error:
                    note(error, host)
                    raise

    async def _request(self, url: URL, seconds: float) -> bytes | URL:
        """One request's image, or where it is redirected to."""
        try:
            async with asyncio.timeout(seconds), self._session.get(url, allow_redirects=False) as response:
                return await self._answer(url, response)
        except TimeoutError as error:
            said = f"not complete after {self._timeout_seconds:g} seconds"
            raise PassingError("image download timed out", f"{shown(url)}: {said}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise image_error(error, url) from error

    async def _answer(self, url: URL, response: aiohttp.ClientResponse) -> bytes | URL:
        status, location = response.status, response.headers.get("Location")
        if status == 200:
            return await self._body(url, response)
        if status in REDIRECTS and location:
            return parse_address(location, url)
        said = f"{shown(url)}: the server answered {status}"
        if status in BUSY or status >= 500:
            raise PassingError("image server failed", said, retry_after(response.headers.get("Retry-After")))
        if status in GONE:
            raise ImageError("image not found", said)
        raise ImageError("image refused by the server" if status >= 400 else "image server failed", said)

    async def _body(self, url: URL, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large(url)
        body = bytearray()
        packed = False
        async for piece in response.content.iter_any():
            unchecked = len(body) < HEAD
            body += piece
            packed = body.startswith(GZIP)  # some stores send what they were given packed, asked for or not
            if len(body) > self._max_bytes:
                raise self._too_large(url)
            if unchecked and len(body) >= HEAD and not packed:
                check_head(url, response, body)
        content = self._unpacked(url, body) if packed else bytes(body)
        check_head(url, response, content)
        return content

    def _unpacked(self, url: URL, body: bytearray) -> bytes:
        try:
            content = zlib.decompressobj(wbits=31).decompress(body, self._max_bytes + 1)
        except zlib.error as error:
            raise ImageError("bad image", f"{shown(url)}: {error}") from error
        if len(content) > self._max_bytes:
            raise self._too_large(url)
        return content

    def _too_large(self, url: URL) -> ImageError:
        return ImageError("image too large", f"{shown(url)}: more than {self._max_bytes} bytes")


def note(error: ImageError, host: Host) -> None:
    """Remember what a failed request says of its host."""
    if error.reason not in NO_ANSWER and error.reason != "private address":
        host.unanswered = 0
    if isinstance(error, PassingError):
        error.host = host
        if error.pause_seconds and error.pause_seconds <= LONGEST_PAUSE_SECONDS:
            host.resume_at = max(host.resume_at, time.monotonic() + error.pause_seconds)


def check_head(url: URL, response: aiohttp.ClientResponse, body: bytes | bytearray) -> None:
    """Raises an ImageError where the first bytes are no image's, whatever the server calls them."""
    if reason := refusal_of_head(bytes(body[:HEAD])):
        said = response.headers.get("Content-Type", "no type")[:50]
        raise ImageError(reason, f"{shown(url)}: sent as {said}, begins with {bytes(body[:20])!r}")


def image_error(error: Exception, url: URL) -> ImageError:
    """What a failed request says of the image, in words that hold no address: aiohttp's own may repeat a query."""
    match error:
        case aiohttp.ClientPayloadError():
            return PassingError("image download broken off", f"{shown(url)}: {error}"[:400])
        case aiohttp.ClientConnectorCertificateError():
            said = str(error.certificate_error)[:200]
            return PassingError("image server unreachable", f"{shown(url)}: {said}", math.inf)
        case aiohttp.ClientConnectorError():
            no_use = error.os_error.errno in NO_SUCH_HOST
            said = error.os_error.strerror or str(error.os_error) or "no connection"
            return PassingError("image server unreachable", f"{shown(url)}: {said[:200]}", math.inf if no_use else None)
        case aiohttp.ClientConnectionError() | OSError():
            return PassingError("image server unreachable", f"{shown(url)}: {error or type(error).__name__}"[:400])
        case ValueError():  # aiohttp.InvalidURL is one
            return ImageError("bad address", f"{shown(url)}: it names no host that can be looked up")
    return ImageError("image server failed", f"{shown(url)}: the answer is no HTTP")


def retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or a date; None: nothing that can be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


@functools.cache
def certificates() -> ssl.SSLContext:
    """The system's and certifi's: some Pythons come without the system's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context

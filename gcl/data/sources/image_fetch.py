"""The encoded bytes of an image, by a path inside one folder or by a web address."""

import io
import ipaddress
import re
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import urljoin

import certifi
import urllib3
from PIL import Image
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError, NewConnectionError
from urllib3.util import Retry, Timeout, Url, parse_url

from gcl.data.record import IMAGE_FORMATS

IS_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
MAX_REQUESTS = 6  # for one image: the first, redirects, and repeats to a busy server
REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
FIRST_PAUSE_SECONDS = 0.1  # before a busy server is asked again; twice as long each time
CHUNK_BYTES = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HEADERS = {"User-Agent": "gcl", "Accept": "image/*", "Accept-Encoding": "identity"}
# One more try, for a kept connection that the server closed meanwhile. Not for an answer's status: urllib3 would first
# read the whole answer, however long.
RETRY = Retry(total=1, connect=0, read=1, redirect=False, respect_retry_after_header=False)


class ImageError(Exception):
    """An image that cannot be had: the reason (one of a small set, counted) and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_image_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """The file `name`, relative to `folder` (resolved) and inside it after symbolic links are followed.

    Raises:
        ImageError: "image outside the catalogue", "missing image" or "image too large".
    """
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ImageError("image outside the catalogue", name)
        if not path.is_file():
            raise ImageError("missing image", name)
        if path.stat().st_size > max_bytes:
            raise ImageError("image too large", f"{name}: {path.stat().st_size} bytes, at most {max_bytes} are read")
        encoded = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a zero byte, a loop of links
        raise ImageError("missing image", f"{name[:200]}: {error}") from error
    if not encoded:
        raise ImageError("missing image", f"{name}: an empty file")
    return encoded


class ImageDownloader:
    """Downloads images over http and https; one instance serves many threads.

    The host is resolved here, every address it has is checked, and the connection goes to a checked address, so a name
    that points elsewhere a moment later changes nothing. For that reason no proxy is used.
    """

    def __init__(self, max_bytes: int, timeout_seconds: float, allow_private_addresses: bool) -> None:
        self.max_bytes, self.timeout_seconds = max_bytes, timeout_seconds
        self.allow_private_addresses = allow_private_addresses
        certificates = ssl.create_default_context()
        certificates.load_verify_locations(certifi.where())  # some Pythons come without the system's certificates
        self._pools = urllib3.PoolManager(num_pools=32, maxsize=16, ssl_context=certificates)

    def fetch(self, url: str) -> bytes:
        """The image at `url`, redirects followed, each address checked like the first.

        Raises:
            ImageError: "image download failed".
        """
        deadline = time.monotonic() + self.timeout_seconds
        try:
            for number in range(MAX_REQUESTS):
                response = self._request(_parse(url), deadline)
                try:
                    location = response.headers.get("Location")
                    if response.status in REDIRECTS and location:
                        url = urljoin(url, location)
                    elif response.status in BUSY:
                        time.sleep(FIRST_PAUSE_SECONDS * 2**number)
                    else:
                        return self._image(response, deadline)
                finally:
                    response.close()
            raise ValueError(f"{MAX_REQUESTS} requests, the last one answered with {response.status}")
        except (HTTPError, OSError, ValueError) as error:
            raise ImageError("image download failed", f"{_without_secrets(url)}: {_cause(error)}") from error

    def _request(self, url: Url, deadline: float) -> urllib3.BaseHTTPResponse:
        assert url.scheme and url.host, f"{url} was not checked"
        port = url.port or (443 if url.scheme == "https" else 80)
        host = url.host.strip("[]")
        addresses = self._addresses(host, port)
        for address in addresses:
            timeout = Timeout(max(deadline - time.monotonic(), 0.1))
            pool = self._pools.connection_from_host(address, port, url.scheme, {"server_hostname": host})
            try:
                return pool.urlopen(
                    "GET",
                    url.request_uri,
                    headers=HEADERS | {"Host": url.netloc or ""},
                    retries=RETRY,
                    timeout=timeout,
                    redirect=False,
                    preload_content=False,
                )
            except MaxRetryError as error:
                if not isinstance(error.reason, NewConnectionError) or address == addresses[-1]:
                    raise
        raise AssertionError("a host that resolves has an address")

    def _addresses(self, host: str, port: int) -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not self.allow_private_addresses and not is_public(address):
                raise ValueError(f"{host} is {address}, a private address; allow_private_addresses=true allows it")
        return addresses

    def _image(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        if response.status != 200:
            raise ValueError(f"the server answered {response.status}")
        body = bytearray()
        while chunk := response.read1(CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > self.max_bytes:
                raise ValueError(f"larger than {self.max_bytes} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"not complete after {self.timeout_seconds} seconds")
        content = bytes(body)
        if not is_image(content):
            raise ValueError(f"not an image ({response.headers.get('Content-Type', 'no type')}: {content[:20]!r})")
        return content


def is_public(address: str) -> bool:
    """Whether `address` is one of the open internet: not private, loopback, link-local, shared or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def is_image(content: bytes) -> bool:
    """Whether the bytes begin as an image file does; that it is whole is checked with the record."""
    try:
        Image.open(io.BytesIO(content), formats=IMAGE_FORMATS).close()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def _parse(url: str) -> Url:
    parsed = parse_url(url)
    if parsed.scheme not in ("http", "https"):
        raise ValueError(f"{parsed.scheme} is neither http nor https")
    if parsed.auth is not None:
        raise ValueError("a name and password inside an address are not sent; serve the images without")
    if not parsed.host:
        raise ValueError("the address names no host")
    return parsed


def _without_secrets(url: str) -> str:
    """The address without its query, which may be a signature, and without a name and password."""
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return "an address that cannot be read"
    return Url(scheme=parsed.scheme, host=parsed.host, port=parsed.port, path=parsed.path).url[:200]


def _cause(error: Exception) -> str:
    return str(error.reason if isinstance(error, MaxRetryError) and error.reason else error)[:200]

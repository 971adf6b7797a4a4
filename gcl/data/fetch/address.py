"""Web addresses of images: which are asked at all, and which hosts may be connected to."""

import ipaddress
import re
import socket

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gcl.data.fetch.error import ImageError

IS_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SHOWN = 200  # characters of an address in a message


def parse_address(address: str, base: URL | None = None) -> URL:
    """The address, relative to `base` where it is a redirect's.

    Raises:
        ImageError: "bad address".
    """
    try:
        # Left exactly as it came where it can be sent so: it may be signed.
        url = URL(address, encoded=bool(re.fullmatch(r"[!-~]+", address)))
        url = base.join(url) if base else url
        problem, said = _problem(url), shown(url)
    except (ValueError, IndexError) as error:  # yarl's, some only when a part of the address is asked for
        raise ImageError("bad address", "an address that cannot be read") from error
    if problem:
        raise ImageError("bad address", f"{said}: {problem}")
    return url


def _problem(url: URL) -> str | None:
    if url.scheme not in ("http", "https"):
        return f"{url.scheme[:20]} is neither http nor https"
    if url.user is not None or url.password is not None:
        return "a name and password inside an address are not sent; serve the images without"
    host = url.raw_host or ""
    if not (_is_literal(host) or HOST_NAME.fullmatch(host)):
        return "it names no host that can be looked up"
    if _is_literal(host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return "its host is a number, yet no address"
    return None


def _is_literal(host: str) -> bool:
    """Whether aiohttp connects to this host without asking the resolver; other spellings of a number go there."""
    return ":" in host or host.replace(".", "").isdigit()


def shown(url: URL) -> str:
    """An address for a message: without its query, which may be a signature, and without a name and password."""
    port = f":{url.explicit_port}" if url.explicit_port is not None else ""
    host = f"[{url.raw_host}]" if ":" in (url.raw_host or "") else url.raw_host or ""
    return f"{url.scheme}://{host}{port}{url.raw_path}"[:SHOWN]


def check_literal(url: URL) -> None:
    """Check a host that is written as a number.

    Raises:
        ImageError: "private address".
    """
    host = url.raw_host or ""
    if _is_literal(host) and not is_public(host):
        raise private_address(host, host)


class PublicResolver(AbstractResolver):
    """Looks a host up and checks every address it has.

    The connection then goes to an address of this very answer, so a name that points elsewhere a moment later
    changes nothing.
    """

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            ImageError: "private address": one of them is.
            OSError: it has none.
        """
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            if not is_public(entry["host"]):
                raise private_address(host, entry["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


def private_address(host: str, address: str) -> ImageError:
    is_it = "" if host == address else f"{host[:SHOWN]} is "
    return ImageError("private address", f"{is_it}{address}; images.allow_private_addresses=true allows it")


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

"""Images by path stay inside their folder; images by address come from a real server on loopback."""

import functools
import gzip
import io
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest
from PIL import Image

from gcl.data.sources.image_fetch import ImageDownloader, ImageError, is_public, read_image_file

MAX_BYTES = 100_000


def jpeg(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "JPEG")
    return buffer.getvalue()


class Shop(BaseHTTPRequestHandler):
    """A web shop with every kind of answer."""

    protocol_version = "HTTP/1.1"
    server: "ShopServer"

    def do_GET(self) -> None:
        self.server.seen.append(f"{self.headers['Host']} {self.path}")
        status, headers, body = self.answer(self.path.partition("?")[0])
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        image = {"Content-Type": "image/jpeg"}
        first_time = sum(seen.endswith(self.path) for seen in self.server.seen) == 1
        return {
            "/red.jpg": (200, image, jpeg("red")),
            "/two%20words.jpg": (200, image, jpeg("blue")),
            "/packed.jpg": (200, image | {"Content-Encoding": "gzip"}, gzip.compress(jpeg())),
            "/bomb.jpg": (200, image | {"Content-Encoding": "gzip"}, gzip.compress(bytes(100 * MAX_BYTES))),
            "/page.jpg": (200, image, b"<!DOCTYPE html><p>Not here</p>"),
            "/huge.jpg": (200, image, jpeg() + bytes(MAX_BYTES)),
            "/cut.jpg": (200, image | {"Content-Length": "99999", "Connection": "close"}, jpeg()),
            "/moved.jpg": (301, {"Location": "/red.jpg"}, b""),
            "/loop.jpg": (302, {"Location": "/loop.jpg"}, b""),
            "/file.jpg": (302, {"Location": "file:///etc/passwd"}, b""),
            "/inside.jpg": (302, {"Location": f"http://10.0.0.1:{self.server.server_port}/red.jpg"}, b""),
            "/busy.jpg": (503, {}, b"") if first_time else (200, image, jpeg()),
        }.get(path, (404, {}, b"nothing"))

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


class ShopServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Shop)
        self.seen: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Nothing on standard error where the client hangs up, as it should after too much."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"


@pytest.fixture
def shop() -> Iterator[ShopServer]:
    server = ShopServer()
    yield server
    server.shutdown()
    server.server_close()


@functools.cache  # loading certificates takes longer than everything else here
def downloader(allow_private_addresses: bool = True, timeout_seconds: float = 5.0) -> ImageDownloader:
    return ImageDownloader(MAX_BYTES, timeout_seconds, allow_private_addresses)


def refused(url: str, images: ImageDownloader | None = None) -> str:
    with pytest.raises(ImageError) as error:
        (images or downloader()).fetch(url)
    assert error.value.reason == "image download failed"
    return error.value.detail


@pytest.mark.parametrize("path", ["/red.jpg", "/packed.jpg", "/moved.jpg", "/busy.jpg"])
def test_an_image_is_downloaded(shop: ShopServer, path: str) -> None:
    assert downloader().fetch(shop.url(path)) == jpeg("red")


def test_an_address_with_a_space_is_downloaded(shop: ShopServer) -> None:
    assert downloader().fetch(shop.url("/two words.jpg")) == jpeg("blue")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/absent.jpg", "404"),
        ("/page.jpg", "not an image (image/jpeg"),
        ("/huge.jpg", "larger than 100000 bytes"),
        ("/bomb.jpg", "larger than 100000 bytes"),
        ("/loop.jpg", "6 requests, the last one answered with 302"),
        ("/file.jpg", "file is neither http nor https"),
        ("/cut.jpg", "IncompleteRead"),
    ],
)
def test_what_is_no_image_is_refused_and_says_why(shop: ShopServer, path: str, said: str) -> None:
    assert said in refused(shop.url(path))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "169.254.169.254",
        "10.0.0.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ],
)
def test_private_addresses_are_refused_by_default(shop: ShopServer, host: str) -> None:
    assert "private address" in refused(shop.url("/red.jpg", host), downloader(allow_private_addresses=False))
    assert shop.seen == []


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ],
)
def test_addresses_that_lead_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


def answer_with(monkeypatch: pytest.MonkeyPatch, name: str, *answers: list[str]) -> list[str]:
    """Let `name` resolve to each of `answers` in turn, and list the hosts that are looked up."""
    real, left, asked = socket.getaddrinfo, list(answers), []

    def resolve(host: str, port: int, *rest: int, **named: int) -> list[tuple]:  # type: ignore[type-arg]
        asked.append(host)
        found = left.pop(0) if host == name else [host]
        return [entry for address in found for entry in real(address, port, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_a_host_with_one_private_address_among_public_ones_is_refused(
    shop: ShopServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "shop.example", ["93.184.215.14", "127.0.0.1"])
    assert "private" in refused(shop.url("/red.jpg", "shop.example"), downloader(allow_private_addresses=False))
    assert shop.seen == []


def test_the_connection_goes_to_the_address_that_was_checked(shop: ShopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, "shop.example", ["127.0.0.1"])  # a second look-up of the name would fail
    assert downloader().fetch(shop.url("/red.jpg", "shop.example")) == jpeg()
    assert asked == ["shop.example", "127.0.0.1"]
    assert shop.seen == [f"shop.example:{shop.server_port} /red.jpg"]


def test_the_next_address_is_tried_where_nobody_listens(shop: ShopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, "shop.example", ["127.0.0.2", "127.0.0.1"])  # the server listens on 127.0.0.1 alone
    assert downloader().fetch(shop.url("/red.jpg", "shop.example")) == jpeg()


def test_a_redirect_to_a_private_address_is_refused(shop: ShopServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcl.data.sources.image_fetch.is_public", lambda address: address == "127.0.0.1")
    said = refused(shop.url("/inside.jpg"), downloader(allow_private_addresses=False))
    assert "10.0.0.1 is 10.0.0.1, a private address" in said


@pytest.mark.parametrize(
    "url",
    [
        "ftp://shop.example/a.jpg",
        "file:///etc/passwd",
        "http://",
        "http://[::1/a.jpg",
        "http://name:secret@127.0.0.1/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
    ],
)
def test_other_kinds_of_address_are_refused(url: str) -> None:
    assert "secret" not in refused(url)


def test_a_refusal_does_not_repeat_a_signature(shop: ShopServer) -> None:
    assert "404" in (detail := refused(shop.url("/absent.jpg?signature=secret"))) and "secret" not in detail


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        assert "timed out" in refused(url, downloader(timeout_seconds=0.2)).lower()


def test_a_certificate_is_checked_against_the_name_in_the_address(
    shop: ShopServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to write a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-subj",
            "/CN=shop.example",
            "-days",
            "2",
            "-addext",
            "subjectAltName=DNS:shop.example",
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    shop.socket = context.wrap_socket(shop.socket, server_side=True)
    answer_with(monkeypatch, "shop.example", ["127.0.0.1"], ["127.0.0.1"])
    url = shop.url("/red.jpg", "shop.example").replace("http:", "https:")
    assert "self-signed certificate" in refused(url)
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    trusting = ImageDownloader(MAX_BYTES, 5.0, allow_private_addresses=True)
    assert trusting.fetch(url) == jpeg()
    assert "certificate is not valid for '127.0.0.1'" in refused(url.replace("shop.example", "127.0.0.1"), trusting)


def test_a_file_inside_the_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg())
    (tmp_path / "link.jpg").symlink_to("images/a.jpg")
    for name in ("images/a.jpg", "images/../images/a.jpg", "link.jpg", str(tmp_path / "images" / "a.jpg")):
        assert read_image_file(tmp_path.resolve(), name, MAX_BYTES) == jpeg()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "image outside the catalogue"),
        ("/etc/passwd", "image outside the catalogue"),
        ("link.jpg", "image outside the catalogue"),
        ("absent.jpg", "missing image"),
        (".", "missing image"),
        ("zero\0byte.jpg", "missing image"),
        ("x" * 5000, "missing image"),
        ("round.jpg", "missing image"),
        ("empty.jpg", "missing image"),
        ("huge.jpg", "image too large"),
    ],
)
def test_a_file_that_must_not_or_cannot_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    folder = tmp_path.resolve() / "catalogue"
    folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "round.jpg").symlink_to(folder / "round.jpg")
    (folder / "empty.jpg").touch()
    (folder / "huge.jpg").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(ImageError) as error:
        read_image_file(folder, name, MAX_BYTES)
    assert error.value.reason == reason

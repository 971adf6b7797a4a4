"""A web server on loopback that gives images in every way a web server can, and remembers what it was asked.

The first part of a path is the way, the rest makes the image: /slow/17.jpg is the image 17, slowly.
"""

import functools
import gzip
import io
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

MAX_BYTES = 100_000  # what the tests allow for one image
ENDLESS = 50_000_000  # bytes after which the server itself gives up


@functools.cache
def jpeg(name: str = "red.jpg") -> bytes:
    """The image of that name, like no other's."""
    digits = "".join(character for character in name if character.isdigit())
    number = int(digits or 0)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256 % 256, 99)).save(buffer, "JPEG", comment=name.encode())
    return buffer.getvalue()


class ImageHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: "ImageServer"

    def setup(self) -> None:
        super().setup()
        self.server.count(1)

    def finish(self) -> None:
        self.server.count(-1)
        super().finish()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        _, way, name = path.split("/", 2)
        with self.server.lock:
            self.server.asked[path] += 1
            self.server.times.append((path, time.monotonic()))
            self.server.paths.append(self.path)
            self.server.headers.append(dict(self.headers))
            first = self.server.asked[path] == 1
        way = way.removeprefix("once-") if first else "good" if way.startswith("once-") else way
        try:
            getattr(self, f"send_{way}")(name)
        except OSError:  # the other side has had enough
            self.close_connection = True

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        defaults = {"Content_Type": "image/jpeg", "Content_Length": str(len(body)), "Set_Cookie": "session=1"}
        for name, value in (defaults | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_good(self, name: str) -> None:
        self.send(200, jpeg(name))

    def send_mislabelled(self, name: str) -> None:
        self.send(200, jpeg(name), Content_Type="text/html")

    def send_packed(self, name: str) -> None:
        self.send(200, gzip.compress(jpeg(name)), Content_Encoding="gzip")

    def send_slow(self, name: str) -> None:
        self.send(200, jpeg(name)[:200], Content_Length=str(len(jpeg(name))))
        time.sleep(0.3)
        self.wfile.write(jpeg(name)[200:])

    def send_large(self, name: str) -> None:
        """200 kB, quickly decoded: what follows an image's end is no part of it."""
        self.send(200, jpeg(name) + bytes(200_000))

    def send_late(self, name: str) -> None:
        """Only after so many requests as the test wants to see before, and a moment for one too many."""
        deadline = time.monotonic() + 20
        while self.server.asked.total() < self.server.wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        self.send(200, jpeg(name))

    def send_moved(self, name: str) -> None:
        self.send(301, Location=f"/good/{name}")

    def send_loop(self, name: str) -> None:
        self.send(302, Location=f"/loop/{name}")

    def send_inside(self, name: str) -> None:
        self.send(302, Location=f"http://10.0.0.1:{self.server.server_port}/good/{name}")

    def send_file(self, _: str) -> None:
        self.send(302, Location="file:///etc/passwd")

    def send_gone(self, _: str) -> None:
        self.send(404, b"nothing")

    def send_forbidden(self, _: str) -> None:
        self.send(403)

    def send_empty(self, _: str) -> None:
        self.send(200)

    def send_failing(self, _: str) -> None:
        self.send(500)

    def send_busy(self, _: str) -> None:
        self.send(503)

    def send_patience(self, _: str) -> None:
        self.send(429, Retry_After="1")

    def send_holiday(self, _: str) -> None:
        self.send(503, Retry_After="86400")

    def send_page(self, _: str) -> None:
        self.send(200, b"\r\n<!DOCTYPE html><html><p>Not here, sorry</p></html>")

    def send_text(self, _: str) -> None:
        self.send(200, b"no such image")

    def send_damaged(self, name: str) -> None:
        self.send(200, jpeg(name)[:-100])

    def send_huge(self, name: str) -> None:
        self.send(200, jpeg(name), Content_Length=str(10**12))

    def send_endless(self, name: str) -> None:
        """A body without a length that goes on and on."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(name))
        self.close_connection = True
        for _ in range(ENDLESS // 10_000):
            self.wfile.write(bytes(10_000))
        self.server.drained += 1

    def send_bomb(self, name: str) -> None:
        self.send(200, gzip.compress(jpeg(name) + bytes(ENDLESS)), Content_Encoding="gzip")

    def send_drip(self, name: str) -> None:
        self.send(200, jpeg(name), Content_Length=str(MAX_BYTES))
        for _ in range(200):
            time.sleep(0.05)
            self.wfile.write(b"\0")

    def send_cut(self, name: str) -> None:
        self.send(200, jpeg(name), Content_Length="99999")
        self.close_connection = True

    def send_reset(self, name: str) -> None:
        self.send(200, jpeg(name)[:300], Content_Length=str(len(jpeg(name))))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()  # with unsent data dropped: the other side sees a reset
        self.close_connection = True

    def send_hangup(self, _: str) -> None:
        self.close_connection = True

    def send_garbage(self, _: str) -> None:
        self.wfile.write(b"\0\1\2 what is this\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


class ImageServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), ImageHandler)
        self.host = host
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()  # path without query: requests
        self.times: list[tuple[str, float]] = []
        self.paths: list[str] = []  # with their queries
        self.headers: list[dict[str, str]] = []
        self.open = self.most_open = 0  # connections, idle ones too
        self.wanted = 0  # requests before a late image is sent
        self.drained = 0  # endless bodies that were read to their end

    def count(self, change: int) -> None:
        with self.lock:
            self.open += change
            self.most_open = max(self.open, self.most_open)

    def url(self, path: str, host: str | None = None) -> str:
        return f"http://{host or self.host}:{self.server_port}{path}"

    def __enter__(self) -> "ImageServer":
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Connections that tests break off are no error."""

"""A web server of one folder that answers ranges, counts, and misbehaves when told to.

python tests/range_server.py FOLDER        prints its address, then serves until it is stopped
"""

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit


@dataclass
class Behaviour:
    """How the server answers, and what was asked of it. Everything may be changed while it runs."""

    delay_seconds: float = 0.0  # before each answer
    fail_next: int = 0  # so many GETs are answered with `failure`
    failure: int = 503
    fail_heads: bool = False  # HEADs too, always
    cut_next: int = 0  # so many bodies end in the middle
    short_next: int = 0  # so many answers hold fewer bytes than were asked for, and say so
    ignore_ranges: bool = False  # the whole file, with 200
    hang: bool = False  # GETs are never answered
    ranges: Counter[tuple[str, str]] = field(default_factory=Counter)  # (file, Range) -> GETs
    heads: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)  # of all requests, with their query
    bytes_sent: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, behaviour: Behaviour, lock: threading.Lock, *arguments: object) -> None:
        self.folder, self.behaviour, self.lock = folder, behaviour, lock
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.behaviour.heads[self._file()] += 1
        if self.behaviour.fail_heads:
            self._fail()
        else:
            self._answer(with_body=False)

    def do_GET(self) -> None:
        with self.lock:
            self.behaviour.ranges[self._file(), self.headers.get("Range", "")] += 1
            failing = self.behaviour.fail_next > 0
            self.behaviour.fail_next -= failing
        while self.behaviour.hang:
            time.sleep(0.05)
        if failing:
            self._fail()
        else:
            self._answer(with_body=True)

    def _fail(self) -> None:
        self.send_response(self.behaviour.failure)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, with_body: bool) -> None:
        self.behaviour.paths.append(self.path)
        time.sleep(self.behaviour.delay_seconds)
        path = self.folder / self._file()
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        asked = None if self.behaviour.ignore_ranges else self.headers.get("Range")
        self.send_response(206 if asked else 200)
        if asked:
            start, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            self.send_header("Content-Range", f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}")
            content = content[start : end + 1]
        with self.lock:
            cut, short = self.behaviour.cut_next > 0, self.behaviour.short_next > 0
            self.behaviour.cut_next -= cut and with_body
            self.behaviour.short_next -= short and with_body
        if short and with_body:
            content = content[: len(content) // 2]
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self._send(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

    def _send(self, content: bytes) -> None:
        try:
            self.wfile.write(content)
            self.behaviour.bytes_sent += len(content)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients hang up, and are killed."""


class RangeServer:
    """The server, in a thread for as long as its block lasts."""

    def __init__(self, folder: Path) -> None:
        self.behaviour = Behaviour()
        handler = partial(Handler, folder, self.behaviour, threading.Lock())
        self._server = Server(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "RangeServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.behaviour.hang = False
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    with RangeServer(Path(sys.argv[1])) as server:
        print(server.address, flush=True)
        threading.Event().wait()

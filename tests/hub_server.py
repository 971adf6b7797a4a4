"""A Hub on loopback: answers as huggingface.co does to those who resolve files."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


@contextmanager
def hub_server(content_of: Callable[[str], bytes | None], is_known: Callable[[str], bool]) -> Iterator[str]:
    """The server's address.

    Args:
        content_of: what stands at a path; None: nothing.
        is_known: whether a path lies in a repository that there is.
    """

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = content_of(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if is_known(self.path) else "RepoNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()

"""A small server on loopback that answers kagglehub as Kaggle does."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class KaggleServer(http.server.ThreadingHTTPServer):
    """Serves one archive.

    cuts: bytes after which a transfer ends early, by the byte it starts with.
    status: of every answer, if it is an error.
    ranges: first bytes of the transfers that were continued.
    """

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archive = archive
        self.cuts: dict[int, int] = {}
        self.status = 200
        self.ranges: list[int] = []

    def handle_error(self, *args: object) -> None:
        """Ignore a client that has read enough."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: KaggleServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status != 200:
            self._answer(self.server.status, b'{"message": "no"}')
        elif self.path.endswith("/GetDataset"):
            size = len(self.server.archive)
            answer = {"currentVersionNumber": 4, "totalBytes": size}
            self._answer(200, json.dumps(answer).encode())
        else:  # as Kaggle does, to its storage
            self._answer(302, b"", Location="http://localhost/archive.zip")

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self.server.archive[first:]
        headers = {"Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{first + len(body)}"
            self.server.ranges.append(first)
        cut = self.server.cuts.get(first, len(body))
        self._answer(206 if wanted else 200, body, cut, **headers)

    def _answer(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        kind = "zip" if self.command == "GET" else "json"
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(archive: bytes) -> Iterator[KaggleServer]:
    with KaggleServer(archive) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

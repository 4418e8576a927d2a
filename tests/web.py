"""A server whose faults are scripted and documents to be spoiled, for tests of what comes over the network."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[1] / "models"
ROMANIA = MODELS / "romania.safetensors"
Answer = Callable[["Request"], None]


@dataclass
class Request:
    """What a script may look at and answer with."""

    handler: BaseHTTPRequestHandler
    start: int
    """First byte asked for."""
    ranged: bool

    def head(self, status: int, headers: dict[str, object]) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name, str(value))
        self.handler.end_headers()

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(data)
        self.handler.wfile.flush()


@dataclass
class Web:
    """What the server answers, and what it was asked.

    Attributes:
        url: of its root.
        answers: by path; of several, each request takes the next, and the last one stays.
        asked: path and Range of every request, in order.
    """

    url: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def put(self, path: str, *answers: Answer | bytes) -> str:
        self.answers[path] = [whole(answer) if isinstance(answer, bytes) else answer for answer in answers]
        return self.url + path

    def host(self, folder: Path) -> None:
        """Every file of a folder, where it lies there."""
        for path in folder.rglob("*.*"):
            self.put(f"/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def serving() -> Iterator[Web]:
    """A server on this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # its base wants this name
            path = self.path.partition("?")[0]
            ranged = self.headers.get("Range")
            web.asked.append((path, ranged))
            web.headers.append(dict(self.headers))
            answers = web.answers.get(path)
            if not answers:
                self.send_error(404)
                return
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            match = re.fullmatch(r"bytes=(\d+)-", ranged or "")
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
                answer(Request(self, int(match[1]) if match else 0, match is not None))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(data: bytes) -> Answer:
    """A server as it should be: with ranges."""

    def answer(request: Request) -> None:
        if not request.ranged:
            request.head(200, {"Content-Length": len(data)})
        elif request.start >= len(data):
            request.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
            return
        else:
            rest = len(data) - request.start
            place = f"bytes {request.start}-{len(data) - 1}/{len(data)}"
            request.head(206, {"Content-Length": rest, "Content-Range": place})
        request.send(data[request.start :])

    return answer


def without_ranges(data: bytes) -> Answer:
    """Gives the whole, whatever was asked for."""

    def answer(request: Request) -> None:
        request.head(200, {"Content-Length": len(data)})
        request.send(data)

    return answer


def cut(data: bytes, after: int) -> Answer:
    """Promises the rest and closes after so many bytes of it."""

    def answer(request: Request) -> None:
        rest = data[request.start :]
        headers: dict[str, object] = {"Content-Length": len(rest)}
        if request.ranged:
            headers["Content-Range"] = f"bytes {request.start}-{len(data) - 1}/{len(data)}"
        request.head(206 if request.ranged else 200, headers)
        request.send(rest[:after])

    return answer


def endless(block: bytes = bytes(2**16)) -> Answer:
    """A bomb: says nothing of its length, and never ends."""

    def answer(request: Request) -> None:
        request.head(200, {})
        while True:
            request.send(block)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(request: Request) -> None:
        request.head(code, {"Content-Length": 0, **headers})

    return answer


def claiming(length: int, data: bytes) -> Answer:
    """Sends `data` under a length of its own."""

    def answer(request: Request) -> None:
        request.head(200, {"Content-Length": length})
        request.send(data)

    return answer


@contextmanager
def editing(path: Path) -> Iterator[dict[str, Any]]:
    """What a JSON file holds, to be changed while the block runs and then written back."""
    document = json.loads(path.read_text(encoding="utf-8"))
    yield document
    path.write_text(json.dumps(document), encoding="utf-8")

"""A web server on 127.0.0.1 that serves a folder, and injects the faults it is given.

with FileServer(folder) as server:
    server.misbehave("S01-000.tar", Fault(status=503), Fault(drop_after=1000))  # the first two responses
    ...  # read server.url
    assert server.requested == ["S01-000.tar", "S01-000.tar", "S01-000.tar"]
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one response; several things may be."""

    status: int | None = None
    """Respond with this status and no content."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added, such as `Location` or `Retry-After`; they replace the server's own."""
    drop_after: int | None = None
    """Bytes of content that are sent before the connection is cut."""
    length: int | None = None
    """Sent as Content-Length instead of the true length."""
    change: Callable[[bytes], bytes] | None = None
    """Changes the file's content before a range is cut out of it."""
    no_range: bool = False
    """Range requests are ignored: the whole file is sent."""
    hold: threading.Event | None = None
    """Nothing is sent before this is set."""
    bytes_per_second: int | None = None
    """The content comes in drops at this rate, until the server or the connection ends."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that was received."""

    name: str
    """Path without its first slash and without a query, decoded."""
    method: str
    headers: Mapping[str, str]
    """Names in small letters."""

    @property
    def first_byte(self) -> int:
        """Start of the requested range."""
        found = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("range", ""))
        return int(found[1]) if found else 0


class FileServer:
    """Serves a folder over HTTP/1.1, with ranges, to any number of clients at once. Use as a context manager."""

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        """Names are paths below the folder; `prefix` comes before them in the address, and is not part of them."""
        self.folder = folder
        self.requests: list[Request] = []
        """All so far."""
        self.allow: Callable[[Request], bool] = lambda _: True
        """Whether a request is allowed; 401 if not."""
        self.answers: dict[str, Callable[[bytes], bytes]] = {}
        """Name -> what makes the answer to a POST request of its content."""
        self._prefix = prefix.strip("/")
        self._next: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._server = _Quiet(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Of the folder, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}/{self._prefix}".rstrip("/")

    @property
    def requested(self) -> list[str]:
        """Names of all GET requests, in order."""
        return [request.name for request in self.requests if request.method == "GET"]

    def misbehave(self, name: str, *faults: Fault, always: Fault | None = None) -> None:
        """Faults of the next responses for a name, one each; and of all responses after them."""
        self._next[name].extend(faults)
        if always is not None:
            self._always[name] = always

    def behave(self) -> None:
        """Drop all faults and forget all requests."""
        self._next.clear()
        self._always.clear()
        self.requests.clear()

    def note(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[Request, Fault]:
        """Record a request; returns the fault of its response."""
        name = unquote(urlsplit(path).path).strip("/").removeprefix(self._prefix).strip("/")
        request = Request(name=name, method=method, headers={key.lower(): value for key, value in headers.items()})
        self.requests.append(request)
        waiting = self._next[name]
        return request, waiting.popleft() if waiting else self._always.get(name, Fault())


@contextmanager
def raw_server(answer: Callable[[], Iterable[bytes]]) -> Iterator[str]:
    """Address of a server that sends any bytes as its answer to any request, for as long as the client listens."""

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            for part in answer():
                connection.sendall(part)

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def silent_server(*, accepts: bool) -> Iterator[str]:
    """Address of a server that accepts connections and never responds, or, as behind a firewall, accepts none."""
    with socket.create_server(("127.0.0.1", 0), backlog=100 if accepts else 0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(0 if accepts else 4):  # fill the queue
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for each in waiting:
                each.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: FileServer, *args: Any) -> None:
        self._owner = owner
        super().__init__(*args)

    def do_GET(self) -> None:
        request, fault = self._owner.note(self.command, self.path, dict(self.headers))
        if fault.hold is not None:
            fault.hold.wait()
        path = self._owner.folder / request.name
        if fault.status is not None:
            self._send(fault.status, b"", {}, fault)
        elif not self._owner.allow(request):
            self._send(401, b"", {}, fault)
        elif not path.resolve().is_relative_to(self._owner.folder.resolve()) or not path.is_file():
            self._send(404, b"", {}, fault)
        else:
            self._send_file(path.read_bytes(), request, fault)

    def do_POST(self) -> None:
        request, fault = self._owner.note(self.command, self.path, dict(self.headers))
        content = self.rfile.read(int(request.headers.get("content-length", "0")))
        if fault.status is not None or request.name not in self._owner.answers:
            self._send(fault.status or 404, b"", {}, fault)
        else:
            self._send(200, self._owner.answers[request.name](content), {}, fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_file(self, data: bytes, request: Request, fault: Fault) -> None:
        data = fault.change(data) if fault.change else data
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not requested or fault.no_range:
            self._send(200, data, {"Accept-Ranges": "none" if fault.no_range else "bytes"}, fault)
            return
        first, last = int(requested[1]), min(int(requested[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, fault)
        else:
            self._send(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, fault)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        headers = {
            "Content-Length": str(len(data) if fault.length is None else fault.length),
            **headers,
            **fault.headers,
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if fault.bytes_per_second is None:
                self.wfile.write(data[: fault.drop_after])
            else:
                drop = max(fault.bytes_per_second // 10, 1)
                for start in range(0, len(data), drop):
                    self.wfile.write(data[start : start + drop])
                    time.sleep(0.1)
        if fault.drop_after is not None or fault.length is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Quiet(ThreadingHTTPServer):
    """Does not log clients that disconnect."""

    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Say nothing: what a client sees is what a test looks at."""

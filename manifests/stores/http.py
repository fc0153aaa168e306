"""A folder on a web server."""

from __future__ import annotations

import errno
import ipaddress
import json
import netrc
import os
import re
import socket
import ssl
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from io import BufferedReader, RawIOBase
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from manifests.stores.base import CHUNK_BYTES, StoreError, TransientError, UnreachableError

#: Limits of the lines of a response: status and headers, informational ones (1xx) included, or the size of a chunk.
LINES_SECONDS = 30.0
LINES_BYTES = 1 << 16

#: Limit for the first connection to a server: name servers, all addresses of the host, a proxy and TLS together.
CONNECT_SECONDS = 7.0

_TIMEOUT_SECONDS = 30
_MAX_PAUSE_SECONDS = 300.0
_MAX_ANSWER_BYTES = 1 << 22
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class HttpStore:
    """A folder on a web server: a `Store`, read only. Credentials are those of ~/.netrc."""

    address: str
    url: Callable[[str], str]
    """Name -> URL of the file."""
    authorization: str | None = field(default=None, repr=False)
    """Only sent to the server of `url`, not to the target of a redirect."""
    connected: Event = field(default_factory=Event, repr=False, compare=False)
    """Set after the first response of the server."""

    @classmethod
    def at(cls, address: str) -> HttpStore:
        """Store of an address, with the basic authorization that ~/.netrc has for its host, as curl and wget use it."""
        authorization = None
        with suppress(OSError, netrc.NetrcParseError, KeyError, RuntimeError):
            path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
            user, _, password = netrc.netrc(path).hosts[urlsplit(address).hostname or ""]
            authorization = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        return cls(address=address, url=lambda name: f"{address}/{quote(name)}", authorization=authorization)

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        request = urllib.request.Request(self.url(name))  # noqa: S310 - http or https: `open_store` takes no other
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        address = f"{self.address}/{name}"
        try:
            with _store_errors(address, request, self.connected):
                seconds = _TIMEOUT_SECONDS if self.connected.is_set() else CONNECT_SECONDS
                with _OPENER.open(request, timeout=seconds) as response:
                    self.connected.set()
                    encoding = response.headers.get("Content-Encoding", "identity")
                    if encoding.strip().lower() not in ("", "identity"):
                        found = f"found a response with Content-Encoding {encoding[:40]!r}"
                        raise StoreError(f"{address}: {found}, expected the file itself; turn it off at the server")
                    yield from _read_from(response, start)
        except StoreError as error:
            if error.status != 416:  # the offset is at the end of the file
                raise


class _Lines(BufferedReader):
    """What a server sends: lines are read within limits, which begin again with each read of content.

    `http.client` reads any number of informational responses and of lines after the last chunk, for any time.
    """

    def __init__(self, raw: RawIOBase) -> None:
        super().__init__(raw)
        self._begin()

    def _begin(self) -> None:
        self._left, self._until = LINES_BYTES, time.monotonic() + LINES_SECONDS

    def readline(self, size: int | None = -1, /) -> bytes:
        most, line = self._left if size is None or size < 0 else size, bytearray()
        while len(line) < most and not line.endswith(b"\n") and (byte := super().read(1)):
            line += byte
            self._left -= 1
            if not self._left:
                raise HTTPException(f"found more than {LINES_BYTES} bytes of headers")
            if time.monotonic() > self._until:
                raise HTTPException(f"found no end of the headers in {LINES_SECONDS:.0f} seconds")
        return bytes(line)

    def read1(self, size: int = -1, /) -> bytes:
        self._begin()
        return super().read1(size)


class _Response(HTTPResponse):
    """A response whose lines have limits."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Lines(self.fp.detach())


class _Web(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Http and https; the lines of responses have limits. The timeout of a request limits the connection as a whole."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **http_conn_args: Any) -> HTTPResponse:
        def make_connection(*args: Any, **kwargs: Any) -> Any:
            connection = http_class(*args, **kwargs)
            connection.response_class = _Response
            connect = connection.connect

            def connect_in_time() -> None:
                seconds = connection.timeout
                connection.timeout = seconds / 2  # an address that does not respond leaves time for another
                _run_within(seconds, connect)
                connection.sock.settimeout(_TIMEOUT_SECONDS)

            connection.connect = connect_in_time
            return connection

        return super().do_open(make_connection, req, **http_conn_args)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, and never from https to http; authorization is not sent to other servers.

    A server on the internet cannot redirect into this machine's networks, nor any server to link-local addresses,
    where clouds keep credentials. A name is resolved here and again for the connection: that a name server answers
    differently the second time is not excluded.
    """

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not may_follow(req.full_url, newurl):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            kept = {name: req.unredirected_hdrs[name] for name in ("Authorization",) if name in req.unredirected_hdrs}
            request.unredirected_hdrs.update(kept)
        return request


def may_follow(origin: str, target: str) -> bool:
    """Whether a server at one URL may lead to another one: see `_Redirects`."""
    try:
        before, after = urlsplit(origin), urlsplit(target)
    except ValueError:
        return False
    insecure = after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http")
    return not insecure and after.username is None and not _leads_inside(before.hostname, after.hostname)


def _leads_inside(before: str | None, after: str | None) -> bool:
    """Whether a redirect is to a link-local address, or from public addresses to others."""
    targets = _addresses(after)
    if any(target.is_link_local for target in targets):
        return True
    origins = _addresses(before)
    return bool(origins) and all(each.is_global for each in origins) and not all(each.is_global for each in targets)


def _addresses(host: str | None) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses of a host; none if it cannot be resolved, as behind a proxy."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    addresses = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return [getattr(each, "ipv4_mapped", None) or each for each in addresses]


def _make_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """Only http and https (no file:, no ftp:), through a proxy if the environment sets one."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _Web(), urllib.request.HTTPErrorProcessor(), *handlers):
        opener.add_handler(handler)
    opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
    return opener


_OPENER = _make_opener(_Redirects())
_PROBE = _make_opener()


def require_reachable(address: str, url: str, connected: Event) -> None:
    """Raise UnreachableError unless a server responds within seconds, with any status; then set `connected`.

    For the first use of stores whose libraries would retry for minutes. Does nothing if `connected` is set.
    """
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - of the library's settings
    try:
        if not connected.is_set():
            _run_within(CONNECT_SECONDS, lambda: _PROBE.open(request, timeout=CONNECT_SECONDS).close())
    except HTTPError as error:
        error.close()
    except HTTPException:
        pass
    except OSError as error:
        if not isinstance(getattr(error, "reason", error), ssl.SSLError):  # libraries may have other certificates
            raise lost_connection(address, error, request.host, reachable=False) from error
    connected.set()


def _run_within(seconds: float, work: Callable[[], None]) -> None:
    """Run `work` in a thread, because name servers cannot be interrupted. Raises its OSErrors and HTTPExceptions.

    Raises TimeoutError if it takes longer; the thread is left to itself.
    """
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except (OSError, HTTPException) as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        future.result(seconds)
    except TimeoutError as error:
        raise TimeoutError("no response in time") from error


def _is_unreachable(error: Exception) -> bool:
    """Whether a first connection failed in a way that will not pass soon: no name, no route, no server, no proxy."""
    reason = getattr(error, "reason", error)
    no_route = isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    refused = isinstance(reason, OSError) and str(reason).startswith("Tunnel connection failed")  # by a proxy
    return no_route or refused or isinstance(reason, ConnectionRefusedError | socket.gaierror | TimeoutError)


def _read_from(response: HTTPResponse, start: int) -> Generator[bytes, None, None]:
    """Bytes of the file from offset `start`, even if the server ignored the requested range."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    skip = start - (int(sent[1]) if response.status == 206 and sent else 0)
    if skip < 0:
        raise HTTPException("found a range that was not requested")
    left = response.length
    while chunk := response.read1(CHUNK_BYTES):  # what has arrived: a slow server is not waited for
        if left is not None:
            left -= len(chunk)
        if len(chunk) > skip:
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))
    if left:
        raise HTTPException(f"the connection ended {left} bytes too early")


def post_json(address: str, url: str, body: object, media_type: str, connected: Event) -> object:
    """The JSON with which a server answers JSON. Raises StoreError as `HttpStore.chunks`, and for another answer."""
    headers = {"Accept": media_type, "Content-Type": media_type}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - as above
    with _store_errors(address, request, connected):
        seconds = _TIMEOUT_SECONDS if connected.is_set() else CONNECT_SECONDS
        with _OPENER.open(request, timeout=seconds) as response:
            connected.set()
            data, until = bytearray(), time.monotonic() + LINES_SECONDS
            while (chunk := response.read1(CHUNK_BYTES)) and len(data) <= _MAX_ANSWER_BYTES:
                data += chunk
                if time.monotonic() > until:
                    raise TransientError(f"{address}: found no end of the answer in {LINES_SECONDS:.0f} seconds")
    try:
        answer: object = json.loads(data if len(data) <= _MAX_ANSWER_BYTES else b"")
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{address}: found an answer of {len(data)} bytes, expected JSON") from error
    return answer


@contextmanager
def _store_errors(address: str, request: urllib.request.Request, connected: Event) -> Iterator[None]:
    """Turn errors of a request into StoreErrors that begin with `address`."""
    try:
        yield
    except HTTPError as error:
        connected.set()
        with error:
            raise _status_error(address, error) from error
    except (OSError, HTTPException) as error:
        reachable = connected.is_set() or not _is_unreachable(error)
        raise lost_connection(address, error, request.host, reachable=reachable) from error


def _status_error(address: str, error: HTTPError) -> StoreError:
    """The error for a status other than success."""
    found = _describe_status(address, error)
    found.status = error.code
    return found


def _describe_status(address: str, error: HTTPError) -> StoreError:
    status = f"HTTP {error.code}"
    if error.code in _TRANSIENT_STATUSES:
        seconds = re.fullmatch(r"[0-9]{1,9}", error.headers.get("Retry-After", ""))  # or a date, which is ignored
        pause_seconds = min(float(seconds[0]), _MAX_PAUSE_SECONDS) if seconds else 0.0
        return TransientError(f"{address}: cannot be fetched for now ({status})", pause_seconds)
    if error.code in (404, 410):
        return StoreError(f"{address}: not found ({status})")
    if error.code in (401, 403):
        return StoreError(f"{address}: may not be read ({status}); is a login or an agreement to its terms missing?")
    if error.code < 400:
        return StoreError(f"{address}: found a redirect that is not followed ({status}), expected the file")
    return StoreError(f"{address}: cannot be fetched ({status})")


def lost_connection(address: str, error: Exception, host: str | None, *, reachable: bool) -> StoreError:
    """The error for a missing or incomplete response of a host; `reachable` if a retry may succeed."""
    reason = describe_reason(error)
    message = f"{address}: cannot be fetched ({reason})"
    if isinstance(error, InvalidURL):
        return StoreError(message)
    if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
        return StoreError(f"{message}; set SSL_CERT_FILE to the certificates of your system or proxy")
    if reachable:
        return TransientError(message)
    return UnreachableError(f"{address}: {host} cannot be reached ({reason}); check network and proxy, then run again")


def describe_reason(error: Exception) -> str:
    """Why a connection failed, in one line, without the target of a redirect."""
    if isinstance(error, InvalidURL):
        return "found an address that is not valid"
    cause = getattr(error, "reason", None) or error
    reason = getattr(cause, "strerror", None) or cause
    return " ".join(str(reason).split())[:300] or type(error).__name__

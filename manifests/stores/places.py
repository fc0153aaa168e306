"""Where a published folder of shards is: a directory, or an address of http(s), s3 or the Hugging Face hub.

Every place gives the bytes of a file from any of them on. What goes wrong is told with the file's own address: never
with a credential, nor with where the place sent us on to, which may hold one.
"""

from __future__ import annotations

import errno
import netrc
import os
import re
import socket
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from threading import Event
from typing import IO, Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit

from manifests.errors import UserError

KINDS = "a folder, http(s)://host/folder, s3://bucket/folder or hf://datasets/owner/name"
CHUNK_BYTES = 1 << 20

_TIMEOUT_SECONDS = 30
_MAX_PAUSE_SECONDS = 300.0
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_HUB = re.compile(r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@?#]+))?(?:/(?P<folder>[^@?#]+))?")


class StoreError(UserError):
    """A file of a place cannot be had, or is not what was promised; one line that names it."""


class UnreachableError(StoreError):
    """Nothing can be had from there for now, and it is not worth waiting."""


class TransientError(StoreError):
    """It cannot be had for now: worth another try."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        """`pause_seconds` is what the place asks for before the next try."""
        super().__init__(message)
        self.pause_seconds = pause_seconds


class Store(Protocol):
    """Files by their names within a published folder."""

    @property
    def address(self) -> str:
        """As people write it."""

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """Bytes of a file from byte `start` on; none where it has no more.

        Raises StoreError; TransientError for what another try may mend, UnreachableError if nobody ever answered.
        """


def open_store(address: str) -> Store:
    """The place at a path or an address. Raises StoreError for an address of another kind, or what it takes to read it.

    Credentials come from where their owner keeps them, never from the address: ~/.netrc for http(s); AWS's environment
    and files for s3 (`FSSPEC_S3_ANON=true` for a public bucket); the hub's own login.
    """
    if not address:
        raise StoreError(f"found no address, expected {KINDS}")
    if not is_remote(address):
        return LocalStore(path=Path(address).expanduser().absolute())
    parts = _split(address)
    if parts.scheme == "hf":
        return _hub(address)
    if parts.scheme not in ("http", "https", "s3") or not parts.hostname or "::" in address:
        raise StoreError(f"found an address {parts.scheme}://{parts.hostname or ''}..., expected {KINDS}")
    plain = address.rstrip("/")
    return _bucket(plain) if parts.scheme == "s3" else _web(plain)


def is_remote(location: str) -> bool:
    """Whether a location is an address and no path."""
    return "://" in location


@dataclass(frozen=True, kw_only=True)
class LocalStore:
    """A folder on this machine, or mounted on it."""

    path: Path

    @property
    def address(self) -> str:
        """The path."""
        return str(self.path)

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """As `Store` says."""
        path = self.path / name
        if not path.is_file():
            raise StoreError(f"{path}: not there")
        try:
            with path.open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise TransientError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True, kw_only=True)
class HttpStore:
    """A folder on a web server, or a repository of the hub."""

    address: str
    url: Callable[[str], str]
    """Name -> where its bytes are asked for."""
    authorization: str | None = field(default=None, repr=False)
    """Sent to the server of `url` alone, not to another that it sends us on to."""
    connected: Event = field(default_factory=Event, repr=False, compare=False)
    """Set once the server has answered anything."""

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """As `Store` says."""
        request = urllib.request.Request(self.url(name))  # noqa: S310 - http or https: `open_store` sees to it
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)
        address = f"{self.address}/{name}"
        try:
            with _OPENER.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                self.connected.set()
                yield from _content(answer, start)
        except HTTPError as error:
            self.connected.set()
            with error:
                if error.code != 416:  # no such byte: the file ends before
                    raise _refused(address, error) from error
        except (OSError, HTTPException) as error:
            raise _lost(address, error, for_good=_nobody_there(error) and not self.connected.is_set()) from error


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """A folder in an S3 bucket, or in a store that talks like one."""

    address: str
    filesystem: Any = field(repr=False)
    """fsspec's."""
    connected: Event = field(default_factory=Event, repr=False, compare=False)
    """Set once the store has answered anything."""

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """As `Store` says."""
        from botocore.exceptions import BotoCoreError, EndpointConnectionError, HTTPClientError  # an optional extra

        address = f"{self.address}/{name}"
        try:
            with self.filesystem.open(address, "rb") as file:
                self.connected.set()
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise StoreError(f"{address}: not there") from error
        except PermissionError as error:
            raise StoreError(f"{address}: may not be read; which AWS credentials are set?") from error
        except (OSError, HTTPClientError) as error:
            raise _lost(address, error, for_good=False) from error
        except EndpointConnectionError as error:
            raise _lost(address, error, for_good=not self.connected.is_set()) from error
        except BotoCoreError as error:
            raise StoreError(
                f"{address}: {_reason(error)}; set AWS credentials, or FSSPEC_S3_ANON=true for a public bucket"
            ) from error


def _split(address: str) -> Any:
    """Parts of an address without user, password and query, so that it can be shown."""
    try:
        parts = urlsplit(address)
        named = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise StoreError(f"found an address that cannot be read, expected {KINDS}") from error
    if named:
        raise StoreError(
            f"found a user in the address of {parts.hostname}, expected none: addresses are written down; "
            "keep user and password in ~/.netrc, or the store's own settings"
        )
    if parts.query or parts.fragment:
        raise StoreError(f"found ? or # in the address of {parts.hostname}, expected {KINDS}")
    return parts


def _web(address: str) -> HttpStore:
    def url(name: str) -> str:
        return f"{address}/{quote(name)}"

    return HttpStore(address=address, url=url, authorization=_from_netrc(urlsplit(address).hostname or ""))


def _from_netrc(host: str) -> str | None:
    """Basic authorization for a host, as curl and wget read it."""
    try:
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        user, _, password = netrc.netrc(path).hosts[host]
    except (OSError, netrc.NetrcParseError, KeyError, RuntimeError):
        return None
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _bucket(address: str) -> S3Store:
    try:
        import fsspec

        return S3Store(address=address, filesystem=fsspec.filesystem("s3", skip_instance_cache=True))
    except ImportError as error:
        raise StoreError(f"{address}: needs s3fs; pip install '.[s3]' brings it") from error


def _hub(address: str) -> HttpStore:
    found = _HUB.fullmatch(address.rstrip("/"))
    if not found:
        raise StoreError("found an address hf://..., expected hf://datasets/owner/name, with @revision if need be")
    try:
        import huggingface_hub
    except ImportError as error:
        raise StoreError(f"{address}: needs huggingface_hub; pip install '.[hub]' brings it") from error

    def url(name: str) -> str:
        told: str = huggingface_hub.hf_hub_url(
            found["repository"],
            name,
            subfolder=found["folder"],
            repo_type="dataset",
            revision=found["revision"] and unquote(found["revision"]),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
        return told

    token = huggingface_hub.get_token()
    return HttpStore(address=address.rstrip("/"), url=url, authorization=token and f"Bearer {token}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Followed to http(s) alone, and never from https to http; authorization stays with the server it is for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            request.unredirected_hdrs.update(
                {name: value for name, value in req.unredirected_hdrs.items() if name == "Authorization"}
            )
        return request


def _opener() -> urllib.request.OpenerDirector:
    """http and https, through a proxy where the environment names one, and nothing else: no file:, no ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


def _content(answer: HTTPResponse, start: int) -> Generator[bytes, None, None]:
    """The answer's bytes from byte `start` of the file on, whatever part of the file the server sent."""
    skip = start - _first_byte(answer)
    if skip < 0:
        raise HTTPException("found another range than was asked for")
    while chunk := answer.read(CHUNK_BYTES):
        if len(chunk) > skip:
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))
    if answer.length:
        raise HTTPException(f"the connection ended {answer.length} bytes too early")


def _first_byte(answer: HTTPResponse) -> int:
    """Place of the answer's first byte in the file."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if answer.status == 206 and found else 0


def _refused(address: str, error: HTTPError) -> StoreError:
    """What a status other than success means."""
    status = f"HTTP {error.code}"
    if error.code in _PASSING_STATUSES:
        return TransientError(f"{address}: cannot be fetched for now ({status})", _pause_seconds(error.headers))
    if error.code in (404, 410):
        return StoreError(f"{address}: not there ({status})")
    if error.code in (401, 403):
        return StoreError(f"{address}: may not be read ({status}); is a login or an agreement to its terms missing?")
    if error.code < 400:
        return StoreError(f"{address}: found a redirect that is not followed ({status}), expected the file")
    return StoreError(f"{address}: cannot be fetched ({status})")


def _lost(address: str, error: Exception, *, for_good: bool) -> StoreError:
    """What no answer, or half of one, means."""
    said = f"{address}: cannot be fetched ({_reason(error)})"
    return UnreachableError(f"{said}; run again once it can be reached") if for_good else TransientError(said)


def _nobody_there(error: Exception) -> bool:
    """Whether no server could be connected to: refused, no such name, no way there."""
    reason = getattr(error, "reason", error)
    no_way = isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return no_way or isinstance(reason, ConnectionRefusedError | socket.gaierror)


def _pause_seconds(headers: Message) -> float:
    """What the server asks for, in reason."""
    with suppress(ValueError):
        return min(max(float(headers.get("Retry-After", "0")), 0.0), _MAX_PAUSE_SECONDS)
    return 0.0


def _reason(error: Exception) -> str:
    """Why, in one line."""
    cause = getattr(error, "reason", None) or error
    reason = getattr(cause, "strerror", None) or cause
    return " ".join(str(reason).split())[:300] or type(error).__name__

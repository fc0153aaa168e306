"""A remote folder of shards, mirrored file by file; nothing is read before its hash is what the index promises.

What is fetched is written beside its place and renamed when whole, under a lock of its own, so that a killed process
leaves nothing half there and several processes fetch each file once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import fsspec

from manifests import index

SCHEMES = ("http", "https", "s3")
_CHUNK_BYTES = 1 << 20
_MAX_INDEX_BYTES = 1 << 26
_TIMEOUT_SECONDS = 60


class CacheError(ValueError):
    """A remote file cannot be had, or is not what was promised; one line that names it."""


def is_remote(location: str) -> bool:
    """Whether a location is an address and no path."""
    return "://" in location


def default_root() -> Path:
    """Where mirrors are kept: `multimae-der` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimae-der"


def mirror_index(url: str, root: Path) -> Path:
    """Fetch what is said about the shards, not the shards: sums, index, folds. The local folder they are in.

    The sums are fetched anew each time, and hold for all the rest. Raises CacheError, ManifestError.
    """
    _check_address(url)
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2] or "shards"
    folder = root / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    fetch(url, folder, index.SUMS_FILE)
    sums = index.load_sums(folder)
    fetch(url, folder, index.DATASET_FILE, _promised(sums, index.DATASET_FILE, url))
    dataset = index.load_dataset(folder)
    if not dataset.complete:
        raise CacheError(f"{url}: found an unfinished build, expected a finished one")
    for scheme in dataset.fold_schemes:
        file = f"{index.FOLDS}/{scheme}.json"
        fetch(url, folder, file, _promised(sums, file, url))
    return folder


def fetch(url: str, folder: Path, name: str, sha256: str | None = None, size: int | None = None) -> Path:
    """A file of a remote folder, in the local one, with the hash and size in bytes that are promised.

    Without a hash it is fetched anew. Raises CacheError if what came is something else or not all of it.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if sha256 is None or not path.is_file() or index.file_sha256(path) != sha256:
            _download(f"{url.rstrip('/')}/{name}", path, sha256, size)
    return path


def _download(address: str, path: Path, sha256: str | None, size: int | None) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            count, digest = _copy(address, file, _MAX_INDEX_BYTES if size is None else size)
            file.flush()
            os.fsync(file.fileno())
        if size is not None and count < size:
            raise CacheError(
                f"{address}: found {count} bytes, expected {size}; run again to fetch the rest of the shards"
            )
        if sha256 not in (None, digest):
            raise CacheError(f"{address}: found SHA-256 {digest}, expected {sha256}; what is served there is damaged")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _copy(address: str, file: BinaryIO, limit: int) -> tuple[int, str]:
    """Copy all there is; its bytes and SHA-256. A server may never end, so more than `limit` is an error."""
    count, digest = 0, hashlib.sha256()
    for chunk in _chunks(address):
        count += len(chunk)
        if count > limit:
            raise CacheError(f"{address}: found more than {limit} bytes, expected at most that")
        digest.update(chunk)
        file.write(chunk)
    return count, digest.hexdigest()


def _chunks(address: str) -> Iterator[bytes]:
    try:
        with _opened(address) as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
    except (OSError, HTTPException) as error:
        raise CacheError(f"{address}: cannot be fetched ({error or type(error).__name__})") from error


def _opened(address: str) -> AbstractContextManager[BinaryIO]:
    """The bytes behind an address. The standard library does for http; fsspec, with its plug-ins, for the rest."""
    if urlsplit(address).scheme in ("http", "https"):
        return urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS)  # noqa: S310 - the scheme is checked
    try:
        return fsspec.open(address, "rb")
    except ImportError as error:
        raise CacheError(f"{address}: {error}; install it with pip") from error


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment or "::" in url:
        raise CacheError(f"{url!r}: found another kind of address, expected {', '.join(SCHEMES)}://host/folder")


def _promised(sums: Mapping[str, str], name: str, url: str) -> str:
    if name not in sums:
        raise CacheError(f"{url}/{index.SUMS_FILE}: found no line for {name}, expected one")
    return sums[name]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process works on this file; the system frees the lock however its owner ends."""
    with path.with_name(f".{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

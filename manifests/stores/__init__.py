"""Stores of published shards: a folder, a web server, an S3 bucket, a repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from manifests.stores.base import (
    CHUNK_BYTES,
    KINDS,
    WRITABLE_KINDS,
    LocalFile,
    SlowError,
    Store,
    StoreError,
    TransientError,
    UnreachableError,
    WritableStore,
)
from manifests.stores.http import HttpStore
from manifests.stores.hub import HubStore
from manifests.stores.local import LocalStore
from manifests.stores.s3 import S3Store

__all__ = ["CHUNK_BYTES", "KINDS", "WRITABLE_KINDS", "HttpStore", "HubStore", "LocalFile", "LocalStore", "S3Store"]
__all__ += [
    "SlowError",
    "Store",
    "StoreError",
    "TransientError",
    "UnreachableError",
    "WritableStore",
    "is_remote",
    "open_store",
]
__all__ += ["open_writable_store"]


def open_store(address: str) -> Store:
    """The store at a path or an address, a `WritableStore` unless it is a web server. Opens no connection.

    Raises StoreError for an address of another kind, or if a library that it needs is not installed. Credentials
    come from their standard locations, never from the address: ~/.netrc for http(s); AWS's environment and files
    for s3 (`FSSPEC_S3_ANON=true` for a public bucket); the login of the Hub.
    """
    return _open(address, KINDS)


def open_writable_store(address: str) -> WritableStore:
    """The store at a path or an address, for sharing. Raises StoreError as `open_store`, and for a read-only one."""
    store = _open(address, WRITABLE_KINDS)
    if not isinstance(store, WritableStore) or (isinstance(store, HubStore) and not store.is_repository):
        raise StoreError(f"{store.address}: found an address that is read only, expected {WRITABLE_KINDS}")
    return store


def is_remote(location: str) -> bool:
    """Whether a location is an address rather than a path."""
    return "://" in location


def _open(address: str, kinds: str) -> Store:
    if not address:
        raise StoreError(f"found no address, expected {kinds}")
    if not is_remote(address):
        try:
            return LocalStore(path=Path(address).expanduser().absolute())
        except RuntimeError as error:
            raise StoreError(f"{address}: found no home folder of that user; write the complete path") from error
    advice = "addresses are written down; keep user and password in ~/.netrc, or the store's own settings"
    try:
        parts = urlsplit(address)
        host, has_user = parts.hostname or "", parts.username is not None or parts.password is not None
        has_port = parts.port is not None
    except ValueError as error:  # of a password with a slash, the first part looks like a port
        raise StoreError(f"found an address that cannot be read, expected {kinds}; {advice}") from error
    if has_user:
        raise StoreError(f"found a user in the address of {host}, expected none: {advice}")
    if parts.scheme != "hf" and ("@" in address or (parts.scheme == "s3" and has_port)):
        raise StoreError(f"found @ or : in an address, expected {kinds}; in a path, write %40 or %3A: {advice}")
    if parts.query or parts.fragment:
        raise StoreError(f"found ? or # in the address of {host}, expected {kinds}")
    plain = address.rstrip("/")
    if parts.scheme == "hf":
        return HubStore.at(plain)
    if parts.scheme not in ("http", "https", "s3") or not host or "::" in address:
        raise StoreError(f"found an address {parts.scheme}://{host}..., expected {kinds}")
    return S3Store.at(plain) if parts.scheme == "s3" else HttpStore.at(plain)

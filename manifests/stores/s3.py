"""A folder in an S3 bucket, or on an S3-compatible server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, ClassVar

from manifests.errors import install_command
from manifests.stores import base
from manifests.stores.base import LocalFile, StoreError
from manifests.stores.http import describe_reason, lost_connection, require_reachable


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """A folder in a bucket: a `WritableStore`. Credentials are AWS's; `FSSPEC_S3_ANON=true` for a public bucket."""

    address: str
    filesystem: Any = field(repr=False)
    """fsspec filesystem."""
    connected: Event = field(default_factory=Event, repr=False, compare=False)
    """Set after the first response of the server."""
    keeps_history: ClassVar[str] = "earlier versions, if the bucket keeps them"

    @classmethod
    def at(cls, address: str) -> S3Store:
        """Store of an address. Raises StoreError if s3fs is not installed."""
        try:
            import fsspec

            filesystem = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(f"{address}: needs s3fs; {install_command('s3')}") from error
        return cls(address=address, filesystem=filesystem)

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        from botocore.exceptions import BotoCoreError, EndpointConnectionError, HTTPClientError  # an optional extra

        address = f"{self.address}/{name}"
        try:
            self._require_reachable(address)
            with self.filesystem.open(address, "rb") as file:
                file.seek(start)
                while chunk := file.read(base.CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise StoreError(f"{address}: not found") from error
        except PermissionError as error:
            raise StoreError(f"{address}: may not be read; which AWS credentials are set?") from error
        except (OSError, HTTPClientError, EndpointConnectionError) as error:
            raise lost_connection(address, error, None, reachable=True) from error
        except BotoCoreError as error:
            raise StoreError(
                f"{address}: {describe_reason(error)}; set AWS credentials, or FSSPEC_S3_ANON=true for a public bucket"
            ) from error

    @contextmanager
    def open_for_writing(self, *, public: bool) -> Iterator[None]:  # noqa: ARG002 - a bucket's policy is its owner's
        yield

    def list_files(self) -> dict[str, int]:
        root = self.address.removeprefix("s3://")
        with self._store_errors():
            found = self.filesystem.find(root, detail=True)
        names = {path.removeprefix(f"{root}/"): entry["size"] for path, entry in found.items()}
        return {name: size for name, size in names.items() if name and not base.is_hidden(name)}

    def check(self, files: Sequence[LocalFile]) -> Iterator[bool]:
        """See `WritableStore`; an object without a checksum on the server is downloaded to hash it."""
        return base.map_in_threads(self._has_hash, files)

    def send(self, files: Sequence[LocalFile]) -> Iterator[LocalFile]:
        def put(file: LocalFile) -> LocalFile:
            with self._store_errors():
                data = file.path.read_bytes()
                base.check_unchanged(file, hashlib.sha256(data).hexdigest())
                # In one request: a multipart upload has no checksum of the complete object.
                checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _base64(file.sha256)}
                self.filesystem.call_s3("put_object", **self._key(file.name), Body=data, **checksum)
            base.check_arrived(self._has_hash(file), file, self.address)
            return file

        return base.map_in_threads(put, files)

    def remove(self, names: Sequence[str]) -> None:
        with self._store_errors():
            self.filesystem.rm([f"{self.address}/{name}" for name in names])

    def _has_hash(self, file: LocalFile) -> bool:
        with self._store_errors():
            head = self.filesystem.call_s3("head_object", **self._key(file.name), ChecksumMode="ENABLED")
            if found := head.get("ChecksumSHA256"):
                return bool(found == _base64(file.sha256))
            with self.filesystem.open(f"{self.address}/{file.name}", "rb") as remote:
                return hashlib.file_digest(remote, "sha256").hexdigest() == file.sha256

    def _require_reachable(self, address: str) -> None:
        require_reachable(address, self.filesystem.s3.meta.endpoint_url, self.connected)

    def _key(self, name: str) -> dict[str, str]:
        bucket, _, key = f"{self.address}/{name}".removeprefix("s3://").partition("/")
        return {"Bucket": bucket, "Key": key}

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        with base.store_errors(self.address, BotoCoreError, ClientError):
            self._require_reachable(self.address)
            yield


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()

"""Where shards are shared to: a directory, a bucket (`s3://`), a dataset repository of the Hugging Face hub (`hf://`).

All three tell what they hold with which hash, so that a share goes on where another was killed, and none trusts that
what was sent has arrived. What talks to buckets and to the hub is imported only where it is used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from manifests.errors import UserError
from manifests.files import FolderError, atomic_writer, describe_os_error, exclusive_lock, remove_leftovers
from manifests.index import file_sha256
from manifests.licensing import one_line

_CHUNK_BYTES = 1 << 20
_THREADS = 4
_Result = TypeVar("_Result")


class ShareError(UserError):
    """Shards cannot be shared as asked; one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to share."""

    name: str
    """Within the folder, `/` between its parts."""
    path: Path
    bytes: int
    sha256: str


class Destination(Protocol):
    """A place that holds one folder of shards. Everything raises ShareError; names are those within the folder."""

    @property
    def address(self) -> str:
        """As a person writes it."""

    @property
    def keeps_history(self) -> str:
        """What may still hold files that were removed; `""` for nothing."""

    def opened(self, *, public: bool) -> AbstractContextManager[None]:
        """Make sure that it is there and, as far as that can be told, not seen by everybody unless `public`."""

    def listing(self) -> Mapping[str, int]:
        """Files there -> size in bytes; hidden ones are left out."""

    def check(self, files: Sequence[File]) -> Iterator[bool]:
        """For each of these files of the listing, whether it has the right hash."""

    def read(self, name: str) -> bytes:
        """A small file of the listing."""

    def send(self, files: Sequence[File]) -> Iterator[File]:
        """Put files there, several at a time; each is told once it is there and has the right hash."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files of the listing."""


def destination(address: str) -> Destination:
    """`s3://bucket/path`, `hf://datasets/owner/name`, or a path. Nothing is opened yet. Raises ShareError."""
    if bucket := re.fullmatch(r"s3://([^/?#]+(?:/[^/?#]+)*)/?", address):
        return Bucket(bucket[1])
    if repository := re.fullmatch(r"hf://datasets/([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)/?", address):
        return Hub(repository[1])
    if not address:
        raise ShareError("where to put it is missing; say DEST=folder|s3://bucket/path|hf://datasets/owner/name")
    if "://" in address:
        expected = "a folder, s3://bucket/path or hf://datasets/owner/name"
        raise ShareError(f"{address!r}: found another kind of address, expected {expected}")
    return Directory(Path(address))


class Directory:
    """A folder: a disk, or a file system that others mount."""

    keeps_history = ""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    @contextmanager
    def opened(self, *, public: bool) -> Iterator[None]:  # noqa: ARG002 - who may read a folder is not ours to say
        try:
            with exclusive_lock(self.folder, "DEST=", tidy=True):
                with _explained(self.folder):
                    remove_leftovers(self.folder)
                yield
        except FolderError as error:
            raise ShareError(str(error)) from error

    def listing(self) -> dict[str, int]:
        with _explained(self.folder):
            present = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
            return {name: path.stat().st_size for name, path in present.items() if path.is_file() and not _hidden(name)}

    def check(self, files: Sequence[File]) -> Iterator[bool]:
        return _side_by_side(self._holds, files)

    def _holds(self, file: File) -> bool:
        with _explained(self.folder):
            return file_sha256(self.folder / file.name) == file.sha256

    def read(self, name: str) -> bytes:
        with _explained(self.folder):
            return (self.folder / name).read_bytes()

    def send(self, files: Sequence[File]) -> Iterator[File]:
        return _side_by_side(self._put, files)

    def _put(self, file: File) -> File:
        """`atomic_writer` reads it back."""
        with _explained(self.folder), atomic_writer(self.folder / file.name) as copy, file.path.open("rb") as original:
            while chunk := original.read(_CHUNK_BYTES):
                copy.write(chunk)
            _check_unchanged(file, copy.sha256)
        return file

    def remove(self, names: Sequence[str]) -> None:
        with _explained(self.folder):
            for name in names:
                (self.folder / name).unlink(missing_ok=True)


class Bucket:
    """A place in a bucket. Objects are sent with their SHA-256, which the server checks; one that has kept none of an
    object is asked for its bytes.
    """

    keeps_history = "earlier versions, if the bucket keeps them"

    def __init__(self, root: str) -> None:
        self.root, self.address = root, f"s3://{root}"
        try:
            import s3fs
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ShareError(f"{self.address}: needs s3fs ({error}); pip install '.[s3]' brings it") from error
        self._store = s3fs.S3FileSystem(use_listings_cache=False)
        self._errors = (BotoCoreError, ClientError)

    @contextmanager
    def opened(self, *, public: bool) -> Iterator[None]:  # noqa: ARG002 - a bucket's policy is its owner's
        yield

    def listing(self) -> dict[str, int]:
        with self._explained():
            found = self._store.find(self.root, detail=True)
        names = {path.removeprefix(f"{self.root}/"): entry["size"] for path, entry in found.items()}
        return {name: size for name, size in names.items() if name and not _hidden(name)}

    def check(self, files: Sequence[File]) -> Iterator[bool]:
        return _side_by_side(self._holds, files)

    def _holds(self, file: File) -> bool:
        bucket, _, key = f"{self.root}/{file.name}".partition("/")
        with self._explained():
            head = self._store.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            found = head.get("ChecksumSHA256")
            return found == _base64(file.sha256) if found else self._sha256(file.name) == file.sha256

    def read(self, name: str) -> bytes:
        with self._explained():
            return bytes(self._store.cat_file(f"{self.root}/{name}"))

    def send(self, files: Sequence[File]) -> Iterator[File]:
        return _side_by_side(self._put, files)

    def _put(self, file: File) -> File:
        """In one request, for only of those is the checksum that of the whole."""
        with self._explained():
            data = file.path.read_bytes()
            _check_unchanged(file, hashlib.sha256(data).hexdigest())
            self._store.pipe_file(
                f"{self.root}/{file.name}",
                data,
                chunksize=5 << 30,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=_base64(file.sha256),
            )
        _check_arrived(self._holds(file), file, self.address)
        return file

    def remove(self, names: Sequence[str]) -> None:
        with self._explained():
            self._store.rm([f"{self.root}/{name}" for name in names])

    def _sha256(self, name: str) -> str:
        with self._store.open(f"{self.root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _explained(self) -> AbstractContextManager[None]:
        return _explained(self.address, *self._errors)


class Hub:
    """A dataset repository of the Hugging Face hub, at HF_ENDPOINT; made private where it is not there yet.

    Whether a file has arrived is what the hub says of it: the SHA-256 of large ones, the git hash of small ones.
    """

    keeps_history = "earlier commits of the repository"
    _COMMIT_FILES = 500
    _COMMIT_BYTES = 2 << 30

    def __init__(self, repository: str) -> None:
        self.address = f"hf://datasets/{repository}"
        try:
            import huggingface_hub
            from huggingface_hub import errors, utils
        except ImportError as error:
            raise ShareError(
                f"{self.address}: needs huggingface_hub ({error}); pip install '.[hub]' brings it"
            ) from error
        utils.disable_progress_bars()
        self._hub, self._api = huggingface_hub, huggingface_hub.HfApi()
        #: What the library raises besides OSErrors of its own.
        self._errors = (errors.HTTPError, ValueError, RuntimeError)
        self._named: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
        self._entries: dict[str, Any] = {}

    @contextmanager
    def opened(self, *, public: bool) -> Iterator[None]:
        with self._explained():
            self._api.create_repo(**self._named, private=not public, exist_ok=True)
            private = self._api.repo_info(**self._named).private
        if not private and not public:
            raise ShareError(f"{self.address}: everybody can see it; make it private, or say so with PUBLIC=1")
        yield

    def listing(self) -> dict[str, int]:
        with self._explained():
            tree = list(self._api.list_repo_tree(**self._named, recursive=True))
        self._entries = {entry.path: entry for entry in tree if hasattr(entry, "blob_id") and not _hidden(entry.path)}
        return {name: entry.size for name, entry in self._entries.items()}

    def check(self, files: Sequence[File]) -> Iterator[bool]:
        return (self._is(self._entries[file.name], file) for file in files)

    def _is(self, entry: Any, file: File) -> bool:
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == file.sha256)
        data = file.path.read_bytes()
        return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())

    def read(self, name: str) -> bytes:
        with self._explained(), tempfile.TemporaryDirectory() as here:
            return Path(self._api.hf_hub_download(**self._named, filename=name, local_dir=here)).read_bytes()

    def send(self, files: Sequence[File]) -> Iterator[File]:
        for batch in self._batches(files):
            with self._explained():
                additions = [self._hub.CommitOperationAdd(path_in_repo=f.name, path_or_fileobj=f.path) for f in batch]
            self._commit(f"Share {_counted([file.name for file in batch])}", additions)
            self._check(batch)
            yield from batch

    def _batches(self, files: Sequence[File]) -> Iterator[list[File]]:
        """Runs of files for a commit each."""
        batch: list[File] = []
        size = 0
        for file in files:
            batch.append(file)
            size += file.bytes
            if len(batch) >= self._COMMIT_FILES or size >= self._COMMIT_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _check(self, files: Sequence[File]) -> None:
        with self._explained():
            entries = self._api.get_paths_info(**self._named, paths=[file.name for file in files])
        found = {entry.path: entry for entry in entries}
        for file in files:
            _check_arrived(file.name in found and self._is(found[file.name], file), file, self.address)

    def remove(self, names: Sequence[str]) -> None:
        deletions = [self._hub.CommitOperationDelete(path_in_repo=name) for name in names]
        self._commit(f"Remove {_counted(names)}", deletions)

    def _commit(self, message: str, operations: Sequence[Any]) -> None:
        with self._explained():
            self._api.create_commit(**self._named, operations=operations, commit_message=message)

    def _explained(self) -> AbstractContextManager[None]:
        return _explained(self.address, *self._errors)


def _side_by_side(work: Callable[[File], _Result], files: Sequence[File]) -> Iterator[_Result]:
    """Work on several files at once, in their order. The first error ends it; what has not begun by then is left."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(work, files)
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} files"


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _check_unchanged(file: File, sha256: str) -> None:
    if sha256 != file.sha256:
        raise ShareError(f"{file.path}: found SHA-256 {sha256}, expected {file.sha256}; it changed while being shared")


def _check_arrived(arrived: bool, file: File, address: str) -> None:
    if not arrived:
        raise ShareError(f"{address}/{file.name}: what arrived does not have SHA-256 {file.sha256}; share again")


@contextmanager
def _explained(where: Path | str, *kinds: type[Exception]) -> Iterator[None]:
    """One line that names the place, for whatever its library raises."""
    expected: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except expected as error:
        said = describe_os_error(error) if isinstance(error, OSError) and error.filename else str(error)
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ShareError(f"{os.fspath(where)}: {one_line(said + cause) or type(error).__name__}") from error

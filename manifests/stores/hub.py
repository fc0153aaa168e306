"""A dataset repository on the Hugging Face Hub, at HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar
from urllib.parse import unquote

from manifests.errors import install_command
from manifests.stores.base import LocalFile, StoreError, check_arrived, is_hidden, store_errors
from manifests.stores.http import HttpStore, require_reachable

_ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@?#]+))?(?:/(?P<folder>[^@?#]+))?"
)
#: Maximum files and bytes per commit.
_COMMIT_FILES = 500
_COMMIT_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class HubStore(HttpStore):
    """A dataset repository: a `WritableStore`. Sharing creates a private one if it does not exist.

    Uploaded files are verified by the Hub's listing: the SHA-256 of LFS files, the git hash of small ones.
    """

    repository: str
    """`owner/name`."""
    is_repository: bool
    """Whether the address is the repository, not a revision or a folder; only then it is writable."""
    keeps_history: ClassVar[str] = "earlier commits of the repository"
    _entries: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Name -> the Hub's entry, as last listed."""

    @classmethod
    def at(cls, address: str) -> HubStore:
        """Store of an address. Raises StoreError for another kind of address, or if the library is not installed."""
        found = _ADDRESS.fullmatch(address)
        if not found:
            raise StoreError("found an address hf://..., expected hf://datasets/owner/name, with @revision if need be")
        try:
            import huggingface_hub
        except ImportError as error:
            raise StoreError(f"{address}: needs huggingface_hub; {install_command('hub')}") from error
        repository, revision, folder = found.groups()

        place = {"subfolder": folder, "revision": revision and unquote(revision), "repo_type": "dataset"}
        endpoint = os.environ.get("HF_ENDPOINT")
        token = huggingface_hub.get_token()
        return cls(
            address=address,
            url=partial(huggingface_hub.hf_hub_url, repository, endpoint=endpoint, **place),
            authorization=token and f"Bearer {token}",
            repository=repository,
            is_repository=not (revision or folder),
        )

    @contextmanager
    def open_for_writing(self, *, public: bool) -> Iterator[None]:
        with self._api() as (api, repository):
            api.create_repo(**repository, private=not public, exist_ok=True)
            private = api.repo_info(**repository).private
        if not private and not public:
            raise StoreError(f"{self.address}: the repository is public; make it private, or set PUBLIC=1")
        yield

    def list_files(self) -> dict[str, int]:
        with self._api() as (api, repository):
            tree = list(api.list_repo_tree(**repository, recursive=True))
        self._entries.clear()
        self._entries.update({e.path: e for e in tree if hasattr(e, "blob_id") and not is_hidden(e.path)})
        return {name: entry.size for name, entry in self._entries.items()}

    def check(self, files: Sequence[LocalFile]) -> Iterator[bool]:
        return (_has_hash(self._entries[file.name], file) for file in files)

    def send(self, files: Sequence[LocalFile]) -> Iterator[LocalFile]:
        """See `WritableStore`; files are grouped into few commits."""
        from huggingface_hub import CommitOperationAdd

        for batch in _split_into_commits(files):
            with self._api():  # hashes the files
                additions = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path) for file in batch]
            self._commit("Share", [file.name for file in batch], additions)
            with self._api() as (api, repository):
                entries = api.get_paths_info(**repository, paths=[file.name for file in batch])
            found = {entry.path: entry for entry in entries}
            for file in batch:
                check_arrived(file.name in found and _has_hash(found[file.name], file), file, self.address)
            yield from batch

    def remove(self, names: Sequence[str]) -> None:
        from huggingface_hub import CommitOperationDelete

        self._commit("Remove", names, [CommitOperationDelete(path_in_repo=name) for name in names])

    def _commit(self, verb: str, names: Sequence[str], operations: Sequence[Any]) -> None:
        message = f"{verb} {names[0] if len(names) == 1 else f'{len(names)} files'}"
        with self._api() as (api, repository):
            api.create_commit(**repository, operations=operations, commit_message=message)

    @contextmanager
    def _api(self) -> Iterator[tuple[Any, dict[str, str]]]:
        """The Hub's API and its arguments for the repository; its errors become StoreErrors."""
        from huggingface_hub import HfApi, constants, errors, utils

        require_reachable(self.address, constants.ENDPOINT, self.connected)
        utils.disable_progress_bars()
        # The library also raises ValueErrors and RuntimeErrors.
        with store_errors(self.address, errors.HTTPError, ValueError, RuntimeError):
            yield HfApi(), {"repo_id": self.repository, "repo_type": "dataset"}


def _split_into_commits(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    batch: list[LocalFile] = []
    for file in files:
        batch.append(file)
        if len(batch) >= _COMMIT_FILES or sum(each.bytes for each in batch) >= _COMMIT_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _has_hash(entry: Any, file: LocalFile) -> bool:
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == file.sha256)
    data = file.path.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())

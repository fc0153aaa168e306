"""Where the files of a corpus are downloaded from: its public address, a mirror in Git LFS, or what the user chose.

A mirror is used if the public address refuses files for now, with HTTP 403, 429 or 5xx: e.g. because the monthly quota
of a repository's Git LFS is used up. Files with wrong bytes are never a reason: every file is compared with its hash,
wherever it comes from.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from builder.datasets.base import Remote, RemoteFile
from manifests.progress import log_line
from manifests.stores import HttpStore, Store, StoreError, TransientError, is_remote, open_store
from manifests.stores.http import may_follow, post_json

#: Objects of one request for links. Few enough that links do not expire before they are used.
BATCH = 100
#: Answers in a row that may pass soon, such as HTTP 503, after which the mirror is used.
MAX_REFUSALS = 3

_GIT = ".git"
_MEDIA_TYPE = "application/vnd.git-lfs+json"


def open_source(remote: Remote, address: str | None, files: Sequence[RemoteFile]) -> Store:
    """The store of some files: at the `address` that the user chose, or the corpus's own one with its mirror.

    An address that ends with `.git` is a repository with the files in its Git LFS. Raises StoreError for an address
    that cannot be used.
    """
    chosen = (address or remote.address).rstrip("/")
    if is_remote(chosen) and chosen.endswith(_GIT):
        return LfsStore.at(chosen, files)
    store = open_store(f"{chosen}/{remote.folder}")
    if address or remote.lfs_mirror is None:
        return store
    return MirroredStore(primary=store, mirror=LfsStore.at(remote.lfs_mirror, files))


@dataclass(kw_only=True)
class LfsStore:
    """Files in the Git LFS of a repository on a web server, by their SHA-256: a `Store`, read only."""

    address: str
    """`https://host/path.git`."""
    files: Mapping[str, RemoteFile]
    """Name -> file with its SHA-256, in the order of the downloads: links are requested for the next files, too."""
    _links: dict[str, HttpStore] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connected: threading.Event = field(default_factory=threading.Event)
    _links_connected: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def at(cls, address: str, files: Sequence[RemoteFile]) -> LfsStore:
        """Store of an address. Raises StoreError for one that cannot be used, and for files without a SHA-256."""
        store = open_store(address)
        unknown = [file.name for file in files if file.sha256 is None]
        if unknown or not isinstance(store, HttpStore):
            reason = f"no SHA-256 of {unknown[0]} is known" if unknown else "no web server"
            raise StoreError(f"{address}: cannot be used as Git LFS: {reason}; choose another FROM=")
        return cls(address=store.address, files={file.name: file for file in files})

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """Bytes of a file from offset `start`. A link that no longer works is requested again by the next attempt."""
        link, is_new = self._find_link(name)
        try:
            yield from link.chunks(name, start)
        except StoreError as error:
            with self._lock:
                self._links.pop(name, None)
            if is_new or error.status not in (401, 403, 404, 410):
                raise
            raise TransientError(f"{self.address}/{name}: found a link that has expired") from error

    def _find_link(self, name: str) -> tuple[HttpStore, bool]:
        """The link of a file, and whether it was requested just now."""
        with self._lock:
            is_new = name not in self._links
            if is_new:
                names = [*self.files]
                first = names.index(name)
                self._request_links([self.files[each] for each in names[first : first + BATCH]])
            if name not in self._links:
                raise StoreError(f"{self.address}/{name}: found no link to it in the answer of Git LFS, expected one")
            return self._links[name], is_new

    def _request_links(self, files: Sequence[RemoteFile]) -> None:
        """Add the links of some files. Raises StoreError for the first file if the server has an error for it."""
        wanted = {file.sha256: file.name for file in files}
        url = f"{self.address}/info/lfs/objects/batch"
        objects = [{"oid": file.sha256, "size": file.bytes} for file in files]
        body = {"operation": "download", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects}
        answer = post_json(self.address, url, body, _MEDIA_TYPE, self._connected)
        found = answer.get("objects") if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise StoreError(f"{self.address}: found no list of objects in the answer of Git LFS, expected one")
        for each in found:
            name = wanted.get(each["oid"]) if isinstance(each.get("oid"), str) else None
            problem = each.get("error")
            if name == files[0].name and isinstance(problem, dict):
                raise self._describe_problem(name, problem)
            if name is not None and problem is None and (link := self._read_link(url, each.get("actions"))):
                self._links[name] = link

    def _describe_problem(self, name: str, problem: Mapping[str, object]) -> StoreError:
        code, message = problem.get("code"), str(problem.get("message", ""))[:200]
        error = StoreError(f"{self.address}/{name}: cannot be fetched from Git LFS ({code}: {message})")
        error.status = code if isinstance(code, int) else None
        return error

    def _read_link(self, origin: str, actions: object) -> HttpStore | None:
        """A store whose only file is the object; None for actions without a link that may be followed."""
        download = actions.get("download") if isinstance(actions, dict) else None
        href = download.get("href") if isinstance(download, dict) else None
        if not isinstance(href, str) or not href.isascii() or not may_follow(origin, href):
            return None
        header = download.get("header") if isinstance(download, dict) else None
        authorization = header.get("Authorization") if isinstance(header, dict) else None
        usable = isinstance(authorization, str) and authorization.isascii() and authorization.isprintable()
        return HttpStore(
            address=self.address,
            url=lambda _: href,
            authorization=authorization if usable else None,
            connected=self._links_connected,
        )


@dataclass(kw_only=True)
class MirroredStore:
    """A store whose files are fetched from a mirror once it refuses them: a `Store`, read only."""

    primary: Store
    mirror: Store
    refusal: str = ""
    """Why the mirror is used; empty if it is not."""
    _refusals: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """That of the store in use."""
        return (self.mirror if self.refusal else self.primary).address

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """Bytes of a file from offset `start`, from the store in use."""
        if not self.refusal:
            try:
                for chunk in self.primary.chunks(name, start):
                    start += len(chunk)
                    yield chunk
                with self._lock:
                    self._refusals = 0
                return
            except StoreError as error:
                if not self._switch(error):
                    raise
        yield from self.mirror.chunks(name, start)

    def _switch(self, error: StoreError) -> bool:
        """Whether to use the mirror after an error of the primary store."""
        status = error.status or 0
        with self._lock:
            if not self.refusal and (status in (403, 429) or status >= 500):
                self._refusals += 1
                if not isinstance(error, TransientError) or self._refusals >= MAX_REFUSALS:
                    self.refusal = f"HTTP {status}"
                    log_line(f"{error}; using the mirror {self.mirror.address}")
            return bool(self.refusal)

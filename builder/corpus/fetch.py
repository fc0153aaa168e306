"""Downloads the published files of a corpus: concurrently, with resume and checksums."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from builder.corpus.archive import unpack
from builder.corpus.check import expected_file
from builder.datasets.base import CorpusError, RemoteFile
from manifests.download import CancelledError, cancellable_pool, download_file, part_path
from manifests.progress import ProgressBar
from manifests.stores import Store, StoreError

#: Concurrent downloads; few, because public servers are shared.
CONNECTIONS = 4
#: After this many consecutive failures the remaining files are not tried: each failure takes minutes of retries.
MAX_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class CorpusDownload:
    """Result of downloading files of a corpus."""

    files: int
    bytes: int
    """Total size of the downloaded files."""
    failed: Mapping[str, str]
    """Name -> reason."""
    not_tried: int


def needed_bytes(root: Path, remotes: Sequence[RemoteFile], *, connections: int, keep_archives: bool) -> int:
    """Upper bound of the disk space of a download: all files, plus archives next to their unpacked files."""
    archives = sorted((remote.bytes for remote in remotes if remote.members), reverse=True)
    needed = sum(remote.bytes for remote in remotes) + sum(archives if keep_archives else archives[:connections])
    return max(0, needed - sum(present_bytes(root, remote) for remote in remotes))


def present_bytes(root: Path, remote: RemoteFile) -> int:
    """Bytes of a file or archive that an earlier download left."""
    path = root / remote.name
    sizes = (each.stat().st_size for each in (path, part_path(path)) if each.is_file())
    return min(next(sizes, 0), remote.bytes)


def fetch_corpus(
    store: Store, root: Path, remotes: Sequence[RemoteFile], *, connections: int, keep_archives: bool = False
) -> CorpusDownload:
    """Download the files, unpack archives, and delete the archives unless `keep_archives` is set.

    A failed file does not stop the others. Raises OSError naming a file that cannot be written.
    """
    failed: dict[str, str] = {}
    fetched: list[RemoteFile] = []
    stop = threading.Event()
    total = sum(remote.bytes - present_bytes(root, remote) for remote in remotes)
    with ProgressBar(total, "fetching", unit="B") as progress, cancellable_pool(connections, stop) as pool:
        lock = threading.Lock()

        def on_bytes(count: int) -> None:
            with lock:  # several threads update the bar
                progress.step(by=count)

        waiting = {pool.submit(_fetch_one, store, root, each, keep_archives, stop, on_bytes): each for each in remotes}
        consecutive_failures = 0
        for done in as_completed(waiting):
            remote = waiting[done]
            try:
                done.result()
                fetched.append(remote)
                consecutive_failures = 0
            except CancelledError:
                continue
            except (StoreError, CorpusError) as error:
                failed[remote.name] = str(error).removeprefix(f"{store.address}/{remote.name}: ")
                consecutive_failures += 1
            if consecutive_failures == MAX_FAILURES:
                stop.set()
    return CorpusDownload(
        files=len(fetched),
        bytes=sum(remote.bytes for remote in fetched),
        failed=failed,
        not_tried=len(remotes) - len(fetched) - len(failed),
    )


def _fetch_one(
    store: Store,
    root: Path,
    remote: RemoteFile,
    keep_archives: bool,
    stop: threading.Event,
    on_bytes: Callable[[int], None],
) -> None:
    if stop.is_set():
        raise CancelledError(f"{store.address}: cancelled")
    download_file(store, root, expected_file(remote), stop, on_bytes)
    if remote.members:
        unpack(root / remote.name, root, remote.members)
        if not keep_archives:
            (root / remote.name).unlink()

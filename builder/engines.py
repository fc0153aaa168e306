"""Where shards are built: in processes of this machine, or by the workers of a Dask cluster.

The unit is a shard. Building one may be begun anywhere, twice and at once: its tar and receipt appear in the output
folder whole, with the same bytes. So a machine that dies costs what it had in hand. Every machine finds recordings and
output under the same paths.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from builder.clip import ClipBuilder
from builder.config import BuildConfig, digest, identity
from builder.pool import ClipPool, EngineError, Limits, MakeBuilder
from builder.rows import BuiltClip
from builder.shards import ShardPlan, finished, write_shard
from manifests.index import Receipt, Row, receipt_name

#: Shards given out for each thread of a cluster: one in hand, one to go on with.
GIVEN_OUT = 2
#: A cluster without a worker is waited for so long, and so is a file that another machine wrote, to be seen here.
PATIENCE_SECONDS = 60.0

OnRow = Callable[[Row], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all shards of a build have in common. Goes to other machines as it is."""

    config: BuildConfig
    root: Path
    """The corpus's folder, absolute."""
    out: Path
    """Folder of the shards."""
    identity: str
    """Digest of all that decides the bytes: whoever has another one must not build."""
    limits: Limits = field(default_factory=Limits)
    make_builder: MakeBuilder = ClipBuilder


class Engine(Protocol):
    """Builds shards somewhere."""

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards into `work.out`, in any order; `on_row` hears of each clip. Raises EngineError, OSError."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalPool:
    """Processes of this machine. One stream of clips keeps all of them busy across the shards' borders."""

    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards in their order."""
        sources = [source for shard in shards for source in shard.sources]
        workers = min(self.workers, len(sources))
        with (
            ClipPool(work.config, work.root, workers, work.limits, work.make_builder) as pool,
            closing(_told(pool.map(sources), on_row)) as clips,
        ):
            for shard in shards:
                write_shard(work.out, shard, islice(clips, len(shard.sources)))


@dataclass(frozen=True, kw_only=True)
class DaskCluster:
    """Workers of a Dask cluster, each of whose threads has one process for clips."""

    scheduler: str = ""
    """Its address, `tcp://host:8786`; with none, a cluster of this machine alone is made and ended with the build."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Of the cluster that is made."""

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards in the order in which workers finish them."""
        work = replace(work, out=work.out.absolute())  # other machines do not know where we stand
        with self._client() as client:
            for receipt in _gathered(client, work, shards):
                _await_receipt(work.out, receipt)
                for row in receipt.rows:
                    on_row(row)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A connection to a cluster with at least one worker. Raises EngineError."""
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise EngineError(f"Dask cannot be loaded ({error}); pip install '.[dask]' brings it") from error
        with ExitStack() as stack:
            # Workers of a cluster of our own may start processes; those of others are asked whether they may.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            cluster: Any = self.scheduler or stack.enter_context(
                LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None, memory_limit=0)
            )
            try:
                client = stack.enter_context(Client(cluster, timeout=PATIENCE_SECONDS))
                client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
            except (OSError, ValueError) as error:
                raise EngineError(f"{self.scheduler}: found no Dask cluster with workers ({error})") from error
            yield client


def build_shard(work: Work, shard: ShardPlan) -> Receipt:
    """Build one shard with one process, unless it is finished already. Raises EngineError, OSError."""
    receipt = finished(work.out, shard)
    return receipt or write_shard(work.out, shard, _own_pool(work).map(shard.sources))


def _told(clips: Iterable[BuiltClip], on_row: OnRow) -> Iterator[BuiltClip]:
    for clip in clips:
        on_row(clip.row)
        yield clip


# --- on a cluster, where the build is started ------------------------------------------------------------------


def _gathered(client: Any, work: Work, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
    """Receipts as shards are finished; so many are given out that no worker waits, and no more."""
    from distributed import as_completed

    def submit(shard: ShardPlan) -> Any:
        return client.submit(build_shard, work, shard, key=f"{shard.name}-{shard.digest}", pure=False)

    waiting = iter(shards)
    first = islice(waiting, GIVEN_OUT * max(1, sum(client.nthreads().values())))
    for done in (running := as_completed(map(submit, first))):
        yield _receipt(done)
        for shard in islice(waiting, 1):
            running.add(submit(shard))


def _receipt(done: Any) -> Receipt:
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    try:
        receipt: Receipt = done.result()
    except KilledWorker as error:
        raise EngineError(f"{done.key}: every Dask worker that was to build it died; run make doctor there") from error
    except FutureCancelledError as error:
        raise EngineError(f"{done.key}: the Dask scheduler is gone; start it and run the same command again") from error
    return receipt


def _await_receipt(out: Path, receipt: Receipt) -> None:
    """Network file systems may show another machine's file late. Raises EngineError for one that never comes."""
    path = out / receipt_name(receipt.shard)
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.is_file():
        if time.monotonic() > end:
            raise EngineError(f"{path}: was built, but is not to be seen here; OUT= must be on a disk that all share")
        time.sleep(0.2)


# --- on a cluster, where shards are built ----------------------------------------------------------------------

_mine = threading.local()


def _own_pool(work: Work) -> ClipPool:
    """This thread's process for clips, kept from shard to shard: loading the face models takes a second or two."""
    wanted = (work.config, work.root, work.limits, work.make_builder)
    if getattr(_mine, "work", None) != wanted:
        if multiprocessing.current_process().daemon:
            raise EngineError(
                f"the Dask worker on {socket.gethostname()} may not start processes; "
                "start it with DASK_DISTRIBUTED__WORKER__DAEMON=False in its environment"
            )
        _check_same_build(work)
        if hasattr(_mine, "pool"):
            _mine.pool.__exit__()
        _mine.pool = ClipPool(work.config, work.root, 1, work.limits, work.make_builder).__enter__()
        _mine.work = wanted
    pool: ClipPool = _mine.pool
    return pool


def _check_same_build(work: Work) -> None:
    """Raise EngineError where other versions or models would make other bytes."""
    if digest(identity(work.config)) != work.identity:
        raise EngineError(
            f"{socket.gethostname()}: has other versions of what builds clips; install the same constraints.txt there"
        )

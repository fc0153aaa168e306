"""Where shards are built: in processes of this machine, or by the workers of a Dask cluster.

The unit of work is a shard. It may be started anywhere, twice and at once: its tar and receipt appear in the output
folder whole, with the same bytes. So a machine that dies costs only the shards it was working on. Every machine finds
recordings and output under the same paths.
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

from builder.built_clip import BuiltClip
from builder.config import BuildConfig, digest, identity
from builder.pool import ClipPool, EngineError
from builder.shards import ShardPlan, load_finished, write_shard
from builder.worker import Limits, MakeBuilder
from manifests.index import Receipt, Row, receipt_name

#: Shards in flight for each thread of a cluster: one that it builds and one to build next.
SHARDS_PER_THREAD = 2
#: How long to wait for a cluster to have a worker, and for a file that another machine wrote to be visible here.
WAIT_SECONDS = 60.0

OnRow = Callable[[Row], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all shards of a build have in common. It is sent to other machines as it is."""

    config: BuildConfig
    root: Path
    """The corpus's folder, absolute."""
    out: Path
    """Folder of the shards."""
    identity: str
    """Digest of everything that decides the bytes: a machine with another one must not build."""
    make_builder: MakeBuilder
    limits: Limits = field(default_factory=Limits)


class Engine(Protocol):
    """Builds shards somewhere."""

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards into `work.out`, in any order, and call `on_row` for each clip. Raises EngineError, OSError."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalPool:
    """Processes of this machine. One stream of clips keeps all of them busy across the borders of shards."""

    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards in their order."""
        sources = [source for shard in shards for source in shard.sources]
        workers = min(self.workers, len(sources))
        with (
            ClipPool(work.config, work.root, workers, work.limits, work.make_builder) as pool,
            closing(_report_rows(pool.map(sources), on_row)) as clips,
        ):
            for shard in shards:
                write_shard(work.out, shard, islice(clips, len(shard.sources)))


def _report_rows(clips: Iterable[BuiltClip], on_row: OnRow) -> Iterator[BuiltClip]:
    for clip in clips:
        on_row(clip.row)
        yield clip


@dataclass(frozen=True, kw_only=True)
class DaskCluster:
    """Workers of a Dask cluster, each of whose threads has one process for clips."""

    scheduler: str = ""
    """Its address, `tcp://host:8786`; if empty, a cluster of this machine alone is started and ended with the build."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Of the cluster that is started."""

    def build(self, work: Work, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards in the order in which workers finish them."""
        work = replace(work, out=work.out.absolute())  # other machines do not know our working directory
        with self._connected() as client:
            for receipt in _build_on_cluster(client, work, shards):
                path = work.out / receipt_name(receipt.shard)
                end = time.monotonic() + WAIT_SECONDS
                while not path.is_file():  # network file systems may show another machine's file late
                    if time.monotonic() > end:
                        raise EngineError(f"{path}: was built, but is not visible here; OUT= must be on a shared disk")
                    time.sleep(0.2)
                for row in receipt.rows:
                    on_row(row)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A client of a cluster with at least one worker. Raises EngineError."""
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise EngineError(f"Dask cannot be loaded ({error}); install it with pip install '.[dask]'") from error
        with ExitStack() as stack:
            # Workers of a cluster of our own may start processes; those of other clusters are checked when they build.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            cluster: Any = self.scheduler or stack.enter_context(
                LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None, memory_limit=0)
            )
            try:
                client = stack.enter_context(Client(cluster, timeout=WAIT_SECONDS))
                client.wait_for_workers(1, timeout=WAIT_SECONDS)
            except (OSError, ValueError) as error:
                raise EngineError(f"{self.scheduler}: found no Dask cluster with workers ({error})") from error
            yield client


def _build_on_cluster(client: Any, work: Work, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
    """Receipts as shards are finished; so many shards are submitted that no worker waits, and no more."""
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    def submit(shard: ShardPlan) -> Any:
        return client.submit(build_shard, work, shard, key=f"{shard.name}-{shard.digest}", pure=False)

    waiting = iter(shards)
    first = islice(waiting, SHARDS_PER_THREAD * max(1, sum(client.nthreads().values())))
    for done in (running := as_completed(map(submit, first))):
        try:
            yield done.result()
        except KilledWorker as error:
            raise EngineError(f"{done.key}: every Dask worker that built it died; run make doctor there") from error
        except FutureCancelledError as error:
            raise EngineError(f"{done.key}: the Dask scheduler is gone; start it and run the same command") from error
        for shard in islice(waiting, 1):
            running.add(submit(shard))


# --- on the machines of a cluster ------------------------------------------------------------------------------

_of_thread = threading.local()


def build_shard(work: Work, shard: ShardPlan) -> Receipt:
    """Build one shard with one process, unless it is finished already. Raises EngineError, OSError."""
    receipt = load_finished(work.out, shard)
    return receipt or write_shard(work.out, shard, _pool_of_thread(work).map(shard.sources))


def _pool_of_thread(work: Work) -> ClipPool:
    """This thread's process for clips, kept from shard to shard: loading the face models takes a second or two."""
    wanted = (work.config, work.root, work.limits, work.make_builder)
    if getattr(_of_thread, "work", None) != wanted:
        host = socket.gethostname()
        if multiprocessing.current_process().daemon:
            raise EngineError(
                f"the Dask worker on {host} may not start processes; "
                "start it with DASK_DISTRIBUTED__WORKER__DAEMON=False in its environment"
            )
        if digest(identity(work.config)) != work.identity:
            raise EngineError(
                f"{host}: has other versions of what builds clips; install the same constraints.txt there"
            )
        if hasattr(_of_thread, "pool"):
            _of_thread.pool.__exit__()
        _of_thread.pool = ClipPool(work.config, work.root, 1, work.limits, work.make_builder).__enter__()
        _of_thread.work = wanted
    pool: ClipPool = _of_thread.pool
    return pool

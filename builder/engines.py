"""Execution engines: shards are built by processes on this machine or by the workers of a Dask cluster.

The unit of work is a shard. Several machines may build the same one concurrently: its tar and receipt are written
atomically, with the same bytes. A machine that dies costs only the shards it was working on. Every machine must see
the recordings and the output folder under the same paths.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from builder.clip_result import ClipResult
from builder.config import BuildConfig, digest, identity
from builder.pool import ClipPool, EngineError
from builder.shards import ShardPlan, load_finished, write_shard
from builder.worker import Limits, MakeBuilder, count_cores
from manifests.errors import install_command
from manifests.index import Receipt, Row, receipt_name

#: Shards in flight per thread of a cluster: one being built and one queued.
SHARDS_PER_THREAD = 2
#: Timeout for a cluster to have a worker, and for a file that another machine wrote to become visible here.
WAIT_SECONDS = 60.0

OnRow = Callable[[Row], None]


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Settings shared by all shards of a build; pickled and sent to other machines."""

    config: BuildConfig
    root: Path
    """Corpus folder, absolute."""
    out: Path
    """Shard folder."""
    identity: str
    """Digest of everything that determines the bytes: a machine with a different one must not build."""
    make_builder: MakeBuilder
    limits: Limits = field(default_factory=Limits)


class Engine(Protocol):
    """Builds shards, on this machine or on others."""

    def build(self, work: BuildContext, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards into `work.out`, in any order, and call `on_row` for each clip. Raises EngineError, OSError."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalPool:
    """Processes on this machine. One stream of clips keeps all of them busy across shard boundaries."""

    workers: int = field(default_factory=count_cores)

    def build(self, work: BuildContext, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards in order."""
        sources = [source for shard in shards for source in shard.sources]
        workers = min(self.workers, len(sources))
        with (
            ClipPool(work.config, work.root, workers, work.limits, work.make_builder) as pool,
            closing(_report_rows(pool.map(sources), on_row)) as clips,
        ):
            for shard in shards:
                write_shard(work.out, shard, islice(clips, len(shard.sources)))


def _report_rows(clips: Iterable[ClipResult], on_row: OnRow) -> Iterator[ClipResult]:
    for clip in clips:
        on_row(clip.row)
        yield clip


@dataclass(frozen=True, kw_only=True)
class DaskCluster:
    """Workers of a Dask cluster. Each worker thread has one process that builds clips."""

    scheduler: str = ""
    """Its address, `tcp://host:8786`; if empty, a local cluster is started and shut down with the build."""
    workers: int = field(default_factory=count_cores)
    """Number of workers of the local cluster."""

    def build(self, work: BuildContext, shards: Sequence[ShardPlan], on_row: OnRow) -> None:
        """Build shards, in the order in which workers finish them."""
        work = replace(work, out=work.out.absolute())  # the working directory differs on other machines
        with self._connected() as client:
            for receipt in _build_on_cluster(client, work, shards):
                path = work.out / receipt_name(receipt.shard)
                end = time.monotonic() + WAIT_SECONDS
                while not path.is_file():  # network file systems may show another machine's file late
                    if time.monotonic() > end:
                        raise EngineError(f"{path}: was built, but is not visible; OUT= must be on a shared disk")
                    time.sleep(0.2)
                for row in receipt.rows:
                    on_row(row)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Connect to a cluster with at least one worker; yields the client. Raises EngineError."""
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise EngineError(f"Dask cannot be imported ({error}); {install_command('dask')}") from error
        with ExitStack() as stack:
            # Workers of a local cluster may start processes; those of other clusters are checked when they build.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            cluster: Any = self.scheduler or stack.enter_context(
                LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None, memory_limit=0)
            )
            try:
                client = stack.enter_context(Client(cluster, timeout=WAIT_SECONDS))
                client.wait_for_workers(1, timeout=WAIT_SECONDS)
            except (OSError, ValueError) as error:
                raise EngineError(f"{self.scheduler}: found no Dask cluster with workers ({error})") from error
            try:
                yield client
            except KeyboardInterrupt:
                if not self.scheduler:  # closing a cluster waits for the clips in progress
                    for worker in filter(None, (nanny.pid for nanny in cluster.workers.values())):
                        os.kill(worker, signal.SIGKILL)
                raise


def _build_on_cluster(client: Any, work: BuildContext, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
    """Yield receipts as shards are finished; only as many shards are in flight as keep all workers busy."""
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
            raise EngineError(f"{done.key}: lost the Dask scheduler; start it and run again") from error
        for shard in islice(waiting, 1):
            running.add(submit(shard))


# --- code that runs on the workers -----------------------------------------------------------------------------

_thread_local = threading.local()


def build_shard(work: BuildContext, shard: ShardPlan) -> Receipt:
    """Build one shard with one process, unless it is already finished. Raises EngineError, OSError."""
    receipt = load_finished(work.out, shard)
    return receipt or write_shard(work.out, shard, _get_thread_pool(work).map(shard.sources))


def _get_thread_pool(work: BuildContext) -> ClipPool:
    """Pool of one process for this thread, reused between shards: loading the face models takes a second or two."""
    settings = (work.config, work.root, work.limits, work.make_builder)
    if getattr(_thread_local, "settings", None) != settings:
        host = socket.gethostname()
        if multiprocessing.current_process().daemon:
            raise EngineError(
                f"the Dask worker on {host} may not start processes; "
                "start it with DASK_DISTRIBUTED__WORKER__DAEMON=False in its environment"
            )
        if digest(identity(work.config)) != work.identity:
            raise EngineError(
                f"{host}: package versions, models or settings differ; install the same constraints.txt on it"
            )
        if hasattr(_thread_local, "pool"):
            _thread_local.pool.__exit__()
        _thread_local.pool = ClipPool(work.config, work.root, 1, work.limits, work.make_builder).__enter__()
        _thread_local.settings = settings
    pool: ClipPool = _thread_local.pool
    return pool

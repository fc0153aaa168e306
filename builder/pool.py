"""A pool of worker processes that build clips on this machine.

Each worker has its own thread in the parent, which sends it one clip and waits for the result. So no two processes
share a lock that a dying one could keep, the memory of pipes and queues is bounded, and workers
keep working while the main thread writes a shard. A worker that crashes costs its current clip (after one retry), one
that hangs or raises an unexpected exception costs it without a retry; the build continues.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self

from builder.clip_result import ClipResult, drop_clip, recorded_row
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.worker import Limits, MakeBuilder, UnexpectedError, limit_native_threads, serve
from manifests.errors import UserError

#: Clips in flight per worker, including results that wait for their turn; bounds the parent's memory.
CLIPS_IN_FLIGHT = 8
#: Attempts for a clip that kills its worker, and for starting a worker.
ATTEMPTS = 2
#: Loading libraries and face models takes a second or two; a worker that takes this long hangs.
START_SECONDS = 300.0
#: A killed process ends immediately, unless the kernel waits for a dead disk; then it is abandoned.
END_SECONDS = 5.0


class EngineError(UserError):
    """An engine cannot build clips; one line with the reason and what to do."""


def _block_interrupts() -> None:
    """Leave Ctrl-C to the main thread. Processes started by this thread inherit the blocked signal from the start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class ClipPool:
    """Builds clips in `workers` processes, which are started on demand. Use as a context manager."""

    def __init__(
        self, config: BuildConfig, root: Path, workers: int, limits: Limits, make_builder: MakeBuilder
    ) -> None:
        self._root = root
        self._limits = limits
        self._max_in_flight = CLIPS_IN_FLIGHT * workers
        self._worker_args = (make_builder, config, root, limits)
        self._threads = ThreadPoolExecutor(workers, "worker", initializer=_block_interrupts)
        self._thread_local = threading.local()
        self._lock = threading.Lock()  # guards `_alive`, and starting: multiprocessing keeps global state
        self._alive: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> Self:
        limit_native_threads()
        resource_tracker.ensure_running()  # if a worker's thread started it, it would unblock interrupts
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in tuple(self._alive):
            self._end(worker)

    def map(self, sources: Iterable[ClipSource]) -> Iterator[ClipResult]:
        """Build every source; results are in the order of the sources.

        Sources are consumed lazily. Raises EngineError if a worker cannot start or, without `limits.drop_clips`,
        cannot finish a clip; and any UserError of a builder.
        """
        in_flight: deque[Future[ClipResult]] = deque()
        try:
            for source in sources:
                in_flight.append(self._threads.submit(self._build, source))
                if len(in_flight) == self._max_in_flight:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        finally:
            for future in in_flight:
                future.cancel()

    def _build(self, source: ClipSource) -> ClipResult:
        """Build one clip in this thread's worker; a worker that dies is replaced for the next clip."""
        cause, reason = "", "worker_died"
        for attempt in range(ATTEMPTS):
            if getattr(self._thread_local, "worker", None) not in self._alive:
                self._thread_local.worker = self._start()
            worker: _Worker = self._thread_local.worker
            try:
                result = worker.build(source, self._limits.seconds)
                if isinstance(result, ClipResult):
                    return result
                self._end(worker)
                if not result.may_pass:
                    cause, reason = result.words, "internal_error"
                    break
                cause = f"{result.words}, {attempt + 1} times"
            except TimeoutError:
                self._end(worker)
                cause, reason = f"not finished after {self._limits.seconds:g} s", "timeout"
                break
            except EOFError:
                cause = f"{self._end(worker)}, {attempt + 1} times"
        if not self._limits.drop_clips:
            resume = "run the same command to resume, WORKERS=1 needs the least memory"
            problem, advice = {
                "timeout": ("hung", resume),
                "internal_error": ("failed", "this is a bug of the program; please report it"),
            }.get(reason, ("died, perhaps out of memory", resume))
            raise EngineError(f"a worker {problem} ({source.clip.clip_id}: {cause}); {advice}")
        return drop_clip(recorded_row(source, self._root), reason, cause)

    def _start(self) -> _Worker:
        """Start a worker and wait until it is ready. Raises EngineError."""
        cause = ""
        for _ in range(ATTEMPTS):
            with self._lock:
                if self._closed:
                    raise EngineError("the pool is closed")
                try:
                    worker = _Worker(*self._worker_args)
                except OSError as error:
                    raise EngineError(f"cannot start a worker ({error.strerror}); use fewer, WORKERS=1") from error
                self._alive.add(worker)
            try:
                problem = worker.receive(START_SECONDS)
            except TimeoutError as error:
                self._end(worker)
                raise EngineError(f"a worker did not start within {START_SECONDS:g} s; run make doctor") from error
            except EOFError:
                cause = self._end(worker)
                continue
            if problem is not None:
                self._end(worker)
                raise EngineError(f"a worker cannot start: {problem}; run make doctor")
            return worker
        raise EngineError(f"a worker died while starting ({cause}, {ATTEMPTS} times); run make doctor")

    def _end(self, worker: _Worker) -> str:
        """Kill a worker and every process it started. Returns how it died."""
        worker.kill()
        with self._lock:
            self._alive.discard(worker)
            return worker.reap()


class _Worker:
    """A process and the parent's end of its pipe. One thread uses the pipe; any thread may kill the process."""

    def __init__(self, make_builder: MakeBuilder, config: BuildConfig, root: Path, limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that the threads of this process hold
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=serve, args=(child_end, make_builder, config, root, limits), daemon=True)
        try:
            self._process.start()
        except OSError:
            self._pipe.close()
            raise
        finally:
            child_end.close()

    def build(self, source: ClipSource, seconds: float) -> ClipResult | UnexpectedError:
        """Build a clip, or return the exception that ended the worker.

        Raises TimeoutError for a clip that takes longer, EOFError if the worker died, the UserError of its builder.
        """
        with self._watched(seconds):
            self._pipe.send(source)
        result: ClipResult | UserError | UnexpectedError = self.receive(seconds)
        if isinstance(result, UserError):
            raise result
        return result

    def receive(self, seconds: float) -> Any:
        """Receive the worker's next message. Raises TimeoutError if none comes in time, EOFError if the worker died."""
        if not self._pipe.poll(seconds):
            raise TimeoutError
        with self._watched(seconds):
            return self._pipe.recv()

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """Kill a worker that stalls in the middle of a message. Raises EOFError if it is dead."""
        watch = threading.Timer(seconds, self.kill)
        watch.start()
        try:
            yield
        except OSError as error:
            raise EOFError from error
        finally:
            watch.cancel()

    def kill(self) -> None:
        """Kill the worker and every process it started: it leads its process group."""
        with suppress(ProcessLookupError, PermissionError, ValueError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(ValueError):  # already reaped
            self._process.kill()

    def reap(self) -> str:
        """Release the resources of a killed worker. Returns how it died."""
        self._pipe.close()
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        with suppress(ValueError):  # still running
            self._process.close()
        if code is None:
            return "cannot be killed"
        return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

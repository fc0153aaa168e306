"""Where clips are built: a pool of spawned processes on this machine.

Each worker has a thread of the parent to itself, which gives it one clip and waits for the answer. So no two
processes share anything that a dying one could leave locked, pipe and memory never hold more than was asked for, and
workers go on while the main thread writes a shard. A worker that crashes costs the clip it held (after one retry), one
that hangs costs it at once; the build goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol, Self

from builder import threads
from builder.clip import BuiltClip, ClipBuilder, dropped, recorded_row
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from manifests.text import escape_unprintable

#: Clips under way, built or waiting for the one whose turn it is, for each worker; bounds the parent's memory.
AHEAD = 8
#: A clip that kills its worker is tried this often; so is starting a worker.
ATTEMPTS = 2
#: Loading the face models takes a second or two; a worker that takes this long is stuck.
START_SECONDS = 300.0
#: An orphaned worker whose interpreter is stuck ends this long after its clip should have ended.
ORPHAN_GRACE_SECONDS = 30.0
#: A killed process is gone at once, unless the system itself waits for a dead disk; it is left behind then.
END_SECONDS = 5.0


class EngineError(Exception):
    """Workers cannot work on this machine; one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a worker may take."""

    seconds: float = 120.0
    """Time for one clip."""
    memory_bytes: int = 8 << 30
    """Address space of one worker."""


class _FailedError(Exception):
    """A worker met what its code does not foresee; one line that says what."""


class Builder(Protocol):
    """What a worker holds: made once, then asked for clip after clip."""

    def build(self, source: ClipSource) -> BuiltClip:
        """Build one clip; what is wrong with its recording is in the row."""
        ...


MakeBuilder = Callable[[BuildConfig, Path], Builder]


class ClipPool:
    """Builds clips in `workers` processes, which are started when needed. Use as a context manager."""

    def __init__(
        self, config: BuildConfig, root: Path, workers: int, limits: Limits, make_builder: MakeBuilder = ClipBuilder
    ) -> None:
        self._root = root
        self._limits = limits
        self._ahead = AHEAD * workers
        self._work = (make_builder, config, root, limits)
        self._threads = ThreadPoolExecutor(workers, "worker", initializer=_leave_interrupts_to_main)
        self._mine = threading.local()
        self._lock = threading.Lock()  # over the set below, and over starting: multiprocessing keeps a set of its own
        self._alive: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> Self:
        threads.one_a_process()
        resource_tracker.ensure_running()  # started by the first worker's thread it would let interrupts in again
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in tuple(self._alive):
            self._end(worker)

    def map(self, sources: Iterable[ClipSource]) -> Iterator[BuiltClip]:
        """Build every source; results in the order of the sources, however long each took.

        Sources are taken as there is room for them. Raises EngineError where a worker cannot start.
        """
        under_way: deque[Future[BuiltClip]] = deque()
        try:
            for source in sources:
                under_way.append(self._threads.submit(self._build, source))
                if len(under_way) == self._ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def _build(self, source: ClipSource) -> BuiltClip:
        """Build one clip in this thread's worker; a worker that does not survive it is replaced for the next."""
        cause = ""
        for _ in range(ATTEMPTS):
            worker = self._worker()
            try:
                return worker.build(source, self._limits.seconds)
            except TimeoutError:
                self._end(worker)
                return self._given_up(source, "timeout", f"not finished after {self._limits.seconds:g} s")
            except EOFError:
                cause = self._end(worker)
            except _FailedError as error:
                self._end(worker)
                cause = str(error)
        return self._given_up(source, "worker_died", f"{cause}, {ATTEMPTS} times")

    def _given_up(self, source: ClipSource, reason: str, detail: str) -> BuiltClip:
        return dropped(recorded_row(source, self._root), reason, detail)

    def _worker(self) -> _Worker:
        """This thread's worker, ready. Raises EngineError."""
        if getattr(self._mine, "worker", None) not in self._alive:
            self._mine.worker = self._start()
        worker: _Worker = self._mine.worker
        return worker

    def _start(self) -> _Worker:
        cause = ""
        for _ in range(ATTEMPTS):
            worker = self._spawn()
            try:
                complaint = worker.answer(START_SECONDS)
            except TimeoutError as error:
                self._end(worker)
                raise EngineError(f"a worker did not start within {START_SECONDS:g} s; run make doctor") from error
            except EOFError:
                cause = self._end(worker)
                continue
            if complaint is not None:
                self._end(worker)
                raise EngineError(f"a worker cannot start: {complaint}; run make doctor")
            return worker
        raise EngineError(f"a worker died while starting ({cause}, {ATTEMPTS} times); run make doctor")

    def _spawn(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise EngineError("the pool is closed")
            try:
                worker = _Worker(self._work)
            except OSError as error:
                raise EngineError(f"cannot start a worker ({error.strerror}); use fewer, WORKERS=1") from error
            self._alive.add(worker)
        return worker

    def _end(self, worker: _Worker) -> str:
        """End a worker and all it started; how it died."""
        worker.kill()
        with self._lock:
            self._alive.discard(worker)
            return worker.bury()


class _Worker:
    """A process and this end of its pipe. One thread talks to it; any may kill it."""

    def __init__(self, work: tuple[MakeBuilder, BuildConfig, Path, Limits]) -> None:
        context = multiprocessing.get_context("spawn")  # mediapipe hangs in a forked process
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *work), daemon=True)
        try:
            self._process.start()
        except OSError:
            self._pipe.close()
            raise
        finally:
            theirs.close()

    def build(self, source: ClipSource, seconds: float) -> BuiltClip:
        """Raises TimeoutError for a clip that takes longer, EOFError if the worker died, _FailedError if it failed."""
        with self._watched(seconds):
            self._pipe.send(source)
        answer: BuiltClip | str = self.answer(seconds)
        if isinstance(answer, str):
            raise _FailedError(answer)
        return answer

    def answer(self, seconds: float) -> Any:
        """The worker's next message. Raises TimeoutError if none comes in time, EOFError if the worker died."""
        if not self._pipe.poll(seconds):
            raise TimeoutError
        with self._watched(seconds):
            return self._pipe.recv()

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """A worker that stops in the middle of a message is killed, too. Raises EOFError if it is dead."""
        watch = threading.Timer(seconds, self.kill)
        watch.start()
        try:
            yield
        except OSError as error:
            raise EOFError from error
        finally:
            watch.cancel()

    def kill(self) -> None:
        """Kill the worker and every process it started: it leads a process group of its own."""
        with suppress(ProcessLookupError, PermissionError, ValueError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(ValueError):  # buried
            self._process.kill()

    def bury(self) -> str:
        """Free what is left of a killed worker; how it died."""
        self._pipe.close()
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        with suppress(ValueError):  # still there
            self._process.close()
        if code is None:
            return "cannot be killed"
        return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def _leave_interrupts_to_main() -> None:
    """Ctrl-C is the main thread's to handle. Workers inherit this, so even one that still starts is not interrupted."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _work(pipe: Any, make_builder: MakeBuilder, config: BuildConfig, root: Path, limits: Limits) -> None:
    """A worker's life: say that it is ready (None, or words why not), then a built clip for every source.

    What nobody foresaw is told in words and ends the worker, with a traceback.
    """
    os.setsid()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        builder = make_builder(config, root)
    except (ImportError, OSError, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    _limit_memory(limits.memory_bytes)
    pipe.send(None)
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            source = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, limits.seconds + ORPHAN_GRACE_SECONDS)
            try:
                clip = builder.build(source)
            except Exception as error:
                pipe.send(escape_unprintable(f"{type(error).__name__} {error}".strip()[:200]))
                raise
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(clip)


def _die_with_parent() -> None:
    """Wait for the parent's end, however it came, and take down whatever this worker started."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _limit_memory(wanted_bytes: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = wanted_bytes if most == resource.RLIM_INFINITY else min(wanted_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))

"""A worker process: creates a builder once, then builds one clip after another until its parent exits."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from manifests.errors import UserError
from manifests.text import escape_unprintable

if TYPE_CHECKING:  # no numerical library may be imported before its threads are limited
    from builder.clip_result import ClipResult
    from builder.config import BuildConfig
    from builder.datasets.base import ClipSource

#: An orphaned worker whose interpreter hangs is killed this long after its clip's time limit.
ORPHAN_GRACE_SECONDS = 30.0
#: Freed memory that a worker keeps.
KEPT_FREE_BYTES = 32 << 20
#: Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of a worker, and what happens if they are exceeded."""

    seconds: float = 120.0
    """Time limit for one clip."""
    memory_bytes: int = 8 << 30
    """Address space of one worker."""
    drop_clips: bool = True
    """Drop a clip that exceeds the limits or kills its worker; if False, the build fails."""


@dataclass(frozen=True, kw_only=True)
class UnexpectedError:
    """An exception that a builder should not raise, as a message from a worker to its parent."""

    words: str
    """Type and message, one line."""
    may_pass: bool
    """It is caused by the machine, e.g. its memory, so the same clip may be built at the next attempt."""


class Builder(Protocol):
    """Created once per worker, then called for every clip."""

    def build(self, source: ClipSource) -> ClipResult:
        """Build one clip; a problem with its recording is recorded in the row. Raises UserError to abort the build."""
        ...


MakeBuilder = Callable[["BuildConfig", Path], Builder]


def limit_native_threads() -> None:
    """Limit numerical libraries in processes started from now on to one thread, unless the user set a number."""
    for name in _THREAD_SETTINGS:
        os.environ.setdefault(name, "1")


def keep_freed_memory() -> None:
    """Let this process reuse memory that it frees, up to KEPT_FREE_BYTES, instead of returning it to the system.

    Every clip allocates megabytes of frames and frees them; the system clears each page that it hands out again.
    """
    with suppress(AttributeError):  # macOS and musl have no such setting
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_FREE_BYTES)


def count_cores() -> int:
    """Cores that this process may use, such as those of its Slurm job; on macOS all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """Kill this process, and the process group it leads, as soon as its parent exits for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def serve(pipe: Any, make_builder: MakeBuilder, config: BuildConfig, root: Path, limits: Limits) -> None:
    """Main function of a worker. Sends None when it is ready, or one line why not; then a result for every source.

    A result is a built clip, a UserError to raise in the parent, or an UnexpectedError; the worker then exits with a
    traceback.
    """
    os.setsid()
    end_with_parent()
    keep_freed_memory()
    try:
        Path.home()
    except RuntimeError:  # a user without an entry in the password file
        os.environ.setdefault("XDG_CACHE_HOME", tempfile.gettempdir())  # librosa requires a folder for its cache
    with suppress(EOFError, ConnectionError):  # the parent exited
        try:
            builder = make_builder(config, root)
        except (ImportError, OSError, RuntimeError) as error:
            pipe.send(f"{type(error).__name__}: {error}")
            return
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        bytes_ = limits.memory_bytes if most == resource.RLIM_INFINITY else min(limits.memory_bytes, most)
        with suppress(ValueError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (bytes_, most))
        pipe.send(None)
        while True:
            source = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, limits.seconds + ORPHAN_GRACE_SECONDS)
            try:
                result: ClipResult | UserError = builder.build(source)
            except UserError as error:
                result = error
            except Exception as error:
                words = escape_unprintable(f"{type(error).__name__}: {error}".removesuffix(": ")[:200])
                pipe.send(UnexpectedError(words=words, may_pass=isinstance(error, MemoryError | OSError)))
                raise
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(result)

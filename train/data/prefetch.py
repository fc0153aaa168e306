"""Background threads that download or hash shards while training runs, those needed first before the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

THREADS = 4

#: Makes the shard of a name ready to be read, or raises; returns early once the event is set.
Prepare = Callable[[str, threading.Event], None]


class ShardPrefetcher:
    """Makes shards ready in the background, each once: `prepare` downloads a remote one, or hashes a local one.

    An error with one of them is raised to every caller that waits for any.
    """

    def __init__(self, names: Iterable[str], prepare: Prepare, threads: int = THREADS) -> None:
        """`prepare` is called from several threads, and not before the first request."""
        self._prepare = prepare
        self._queue = dict.fromkeys(names)
        self._missing = set(self._queue)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._started = False
        self._error: BaseException | None = None
        self._interrupted = False
        self._changed = threading.Condition()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; after Ctrl-C without waiting for threads, which may wait for a server or for another process."""
        self.close(wait=kind is None or not issubclass(kind, KeyboardInterrupt))

    @property
    def complete(self) -> bool:
        """Whether every shard is ready."""
        return not self._missing

    def prioritize(self, names: Iterable[str]) -> None:
        """Prepare these before all others, in this order."""
        with self._changed:
            self._queue = {**{name: None for name in names if name in self._queue}, **self._queue}
            jobs = [] if self._started else [self._pool.submit(self._prepare_next) for _ in self._queue]
            self._started = True
        for job in jobs:
            job.add_done_callback(self._record_error)

    def is_ready(self, names: Iterable[str]) -> bool:
        """Whether all of these are ready. Raises the error of any shard that failed."""
        with self._changed:
            if self._error is not None:
                raise self._error
            return self._missing.isdisjoint(names)

    def wait(self, names: Iterable[str]) -> None:
        """Block until all of these are ready.

        Raises the error of any shard that failed, and KeyboardInterrupt after `interrupt`.
        """
        names = tuple(names)
        self.prioritize(names)
        with self._changed:
            while not self.is_ready(names):
                if self._interrupted:
                    raise KeyboardInterrupt("interrupted; run the same command to continue from the last checkpoint")
                self._changed.wait()

    def interrupt(self) -> None:
        """Interrupt every wait, now and later. Safe to call from a signal handler."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self, *, wait: bool = True) -> None:
        """Prepare no more shards; those that are being prepared are stopped, and waited for if `wait`."""
        self._stop.set()
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _prepare_next(self) -> None:
        with self._changed:
            name = next(iter(self._queue))
            del self._queue[name]
        self._prepare(name, self._stop)
        with self._changed:
            self._missing.discard(name)
            self._changed.notify_all()

    def _record_error(self, done: Future[None]) -> None:
        if done.cancelled() or done.exception() is None:
            return
        with self._changed:
            self._error = self._error or done.exception()
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)

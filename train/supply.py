"""Shards made ready in the background, fetched or hashed, while training goes on: those needed first at first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 4

#: Given a name, and an event that is set when nobody waits any more.
Ready = Callable[[str, threading.Event], None]


class Supply:
    """Shards by name, each made ready once. What becomes of one of them is told to whoever waits for any."""

    def __init__(self, names: Iterable[str], ready: Ready, threads: int = THREADS) -> None:
        """`ready` makes one ready or raises; several threads call it. Nothing is done before something is asked for."""
        self._ready = ready
        self._queue = dict.fromkeys(names)
        self._missing = set(self._queue)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="supply")
        self._begun = False
        self._failure: BaseException | None = None
        self._interrupted = False
        self._changed = threading.Condition()
        self._stop = threading.Event()

    @property
    def complete(self) -> bool:
        """Whether every shard is ready."""
        return not self._missing

    def first(self, names: Iterable[str]) -> None:
        """These are needed before all others, in this order."""
        with self._changed:
            self._queue = {**{name: None for name in names if name in self._queue}, **self._queue}
            jobs = [] if self._begun else [self._pool.submit(self._make_next) for _ in self._queue]
            self._begun = True
        for job in jobs:
            job.add_done_callback(self._note)

    def has(self, names: Iterable[str]) -> bool:
        """Whether all of these are ready. Raises what went wrong with any shard."""
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return self._missing.isdisjoint(names)

    def wait(self, names: Iterable[str]) -> None:
        """Until all of these are ready. Raises what went wrong with any shard; KeyboardInterrupt after `interrupt`."""
        names = tuple(names)
        self.first(names)
        with self._changed:
            while not self.has(names):
                if self._interrupted:
                    raise KeyboardInterrupt
                self._changed.wait()

    def interrupt(self) -> None:
        """Whoever waits for a shard, now or later, is to wait no more. May be called by a signal's handler."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Make no more ready; what is in hand is asked to stop, and waited for."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _make_next(self) -> None:
        with self._changed:
            name = next(iter(self._queue))
            del self._queue[name]
        self._ready(name, self._stop)
        with self._changed:
            self._missing.discard(name)
            self._changed.notify_all()

    def _note(self, done: Future[None]) -> None:
        if done.cancelled() or done.exception() is None:
            return
        with self._changed:
            self._failure = self._failure or done.exception()
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)

"""Shards that are made ready in the background: in the order of need, each once, and no failure unheard."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.data import DataError
from train.data.prefetch import ShardPrefetcher

NAMES = [f"s{number}" for number in range(6)]


class Worker:
    """Makes shards ready, one at a time and only when let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.let = threading.Semaphore(0)
        self.bad: set[str] = set()

    def __call__(self, name: str, stop: threading.Event) -> None:
        self.begun.append(name)
        if not stop.is_set():
            self.let.acquire()
        if name in self.bad:
            raise DataError(f"{name}: bad")


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_what_is_needed_first_is_made_ready_first(worker: Worker) -> None:
    prefetcher = ShardPrefetcher(NAMES, worker, threads=1)
    prefetcher.prioritize(["s4", "s2", "unknown"])
    worker.let.release(2)
    prefetcher.wait(["s4", "s2"])
    prefetcher.prioritize(["s5", "s2"])
    worker.let.release(4)
    prefetcher.wait(["s5"])
    prefetcher.close()
    assert worker.begun[:2] == ["s4", "s2"]
    assert "s5" in worker.begun[2:4]  # one may have been in progress


def test_nothing_is_begun_before_it_is_asked_for(worker: Worker) -> None:
    prefetcher = ShardPrefetcher(NAMES, worker)
    assert not prefetcher.complete
    assert worker.begun == []
    prefetcher.close()
    assert worker.begun == []


def test_each_is_made_ready_once_for_all_who_wait(worker: Worker) -> None:
    prefetcher = ShardPrefetcher(NAMES, worker, threads=3)
    worker.let.release(len(NAMES))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prefetcher.wait, [NAMES] * 8))
    assert sorted(worker.begun) == NAMES


def test_who_waits_goes_on_as_soon_as_what_it_needs_is_there(worker: Worker) -> None:
    prefetcher = ShardPrefetcher(NAMES, worker, threads=1)
    assert not prefetcher.is_ready(["s0"])
    assert prefetcher.is_ready([])
    worker.let.release()
    prefetcher.wait(["s0"])
    assert prefetcher.is_ready(["s0"])
    assert not prefetcher.is_ready(["s0", "s1"])
    worker.let.release(len(NAMES))
    prefetcher.close()


def test_a_failure_is_told_to_whoever_asks_next_and_ends_the_rest(worker: Worker) -> None:
    worker.bad = {"s1"}
    prefetcher = ShardPrefetcher(NAMES, worker, threads=1)
    worker.let.release(len(NAMES))
    with pytest.raises(DataError, match=r"^s1: bad$"):
        prefetcher.wait(["s5"])
    with pytest.raises(DataError, match=r"^s1: bad$"):
        prefetcher.is_ready(["s0"])  # though it is ready
    prefetcher.close()
    assert not prefetcher.complete


def test_closing_ends_what_is_in_hand(worker: Worker) -> None:
    def hear(name: str, stop: threading.Event) -> None:
        worker.begun.append(name)
        assert stop.wait(60)

    prefetcher = ShardPrefetcher(NAMES, hear, threads=2)
    prefetcher.prioritize([])
    prefetcher.close()
    assert len(worker.begun) <= 2


def test_an_interrupt_ends_the_wait_for_what_is_not_ready_alone(worker: Worker) -> None:
    prefetcher = ShardPrefetcher(NAMES, worker, threads=1)
    worker.let.release()
    prefetcher.wait(["s0"])
    threading.Timer(0.05, prefetcher.interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        prefetcher.wait(["s1"])
    prefetcher.wait(["s0"])
    with pytest.raises(KeyboardInterrupt):
        prefetcher.wait(["s2"])
    worker.let.release(len(NAMES))
    prefetcher.close()


def test_without_shards_there_is_nothing_to_wait_for() -> None:
    prefetcher = ShardPrefetcher((), lambda *_: None)
    assert prefetcher.complete
    prefetcher.wait(["any"])

"""The pool of workers: results in order, bounded memory, and every way in which a worker can fail."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from builder.clip_result import ClipResult
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.pool import CLIPS_IN_FLIGHT, ClipPool, EngineError
from builder.worker import Limits, MakeBuilder
from tests.fakes import clip_builder
from tests.fakes.clip_builder import FakeBuilder, builder_of_macos, source, survivors

WORKERS = 2
CLIP_SECONDS = 1.5
MEMORY_BYTES = 4 << 30

MakePool = Callable[..., ClipPool]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def make_pool(root: Path) -> MakePool:
    def make(builder: MakeBuilder = FakeBuilder, workers: int = WORKERS) -> ClipPool:
        limits = Limits(seconds=CLIP_SECONDS, memory_bytes=MEMORY_BYTES)
        return ClipPool(BuildConfig(dataset="folder"), root, workers, limits, builder)

    return make


@pytest.fixture(scope="module")
def pool(make_pool: MakePool) -> Iterator[ClipPool]:
    """One pool for all tests: what one does to its workers must not harm the next."""
    with make_pool() as pool:
        yield pool


@pytest.fixture
def calls(root: Path) -> Iterator[TextIO]:
    """Reads what clips ordered to `call` write: their worker's process id, a line each."""
    (root / "caller").unlink(missing_ok=True)
    os.mkfifo(root / "caller")
    with os.fdopen(os.open(root / "caller", os.O_RDWR)) as lines:
        yield lines


def around(root: Path, order: str) -> list[ClipSource]:
    """Clips that build, with one in their midst that does something else."""
    orders = [*["ok"] * 3, order, *["ok"] * 3]
    return [source(root, f"{order.replace(' ', '_')}-{i}", each) for i, each in enumerate(orders)]


def outcomes(clips: list[ClipResult]) -> list[tuple[str, str | None]]:
    return [(clip.row.status, clip.row.reason) for clip in clips]


BUILT = ("built", None)


# --- order and memory ------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_sources(pool: ClipPool, root: Path) -> None:
    pauses = random.Random(0).choices([0.0, 0.001, 0.02], k=60)
    sources = [source(root, f"order-{i:02d}", f"sleep {pause}") for i, pause in enumerate(pauses)]
    clips = list(pool.map(sources))
    assert [clip.row.clip_id for clip in clips] == [each.clip.clip_id for each in sources]
    assert len({clip.row.sha256 for clip in clips}) == 3


def test_no_source_no_clip(pool: ClipPool) -> None:
    assert list(pool.map([])) == []


def test_sources_are_taken_only_as_far_ahead_as_promised(pool: ClipPool, root: Path) -> None:
    taken = 0

    def sources() -> Iterator[ClipSource]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield one

    one = source(root, "ahead")
    most = 0
    for given, _ in enumerate(pool.map(sources())):
        most = max(most, taken - given)
    assert (taken, most) == (100, CLIPS_IN_FLIGHT * WORKERS)


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_clips(pool: ClipPool, root: Path) -> None:
    one = source(root, "big", "big 300")  # 200 kB a clip, 2 GB in total
    for _ in pool.map([one] * 200):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(1 for _ in pool.map(one for _ in range(10_000)))
    assert count == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_workers_go_on_while_nobody_takes_results(pool: ClipPool, root: Path, calls: TextIO) -> None:
    """As at the border of two shards, where the main thread writes and hashes."""
    clips = pool.map([source(root, f"border-{i}", "call") for i in range(100)])
    next(clips)
    called = [calls.readline() for _ in range(CLIPS_IN_FLIGHT * WORKERS)]  # never ends if a worker starves
    assert len(called) == CLIPS_IN_FLIGHT * WORKERS


def test_messages_larger_than_any_pipe_pass_both_ways(pool: ClipPool, root: Path) -> None:
    sources = [source(root, f"large-{i}", "big 20000", sentence="la" * 500_000) for i in range(12)]
    assert outcomes(list(pool.map(sources))) == [BUILT] * 12


# --- workers that fail -----------------------------------------------------------------------------------------

DIED, LATE = "worker_died", ("timeout", f"not finished after {CLIP_SECONDS} s")
FAILURES = {
    "crash": (DIED, "ended by SIGSEGV, 2 times"),
    "stammer": (DIED, "ended by SIGKILL, 2 times"),
    "hang": LATE,
    "once crash": (None, None),
    "fail": ("internal_error", "ValueError: as ordered"),
}
MORE_FAILURES = {
    "leave": (DIED, "exit code 0, 2 times"),
    "once fail": ("internal_error", "ValueError: as ordered"),
    f"allocate {2 * MEMORY_BYTES}": (DIED, "MemoryError, 2 times"),
    "stop": LATE,
    "once leave": (None, None),
    "once stop": LATE,
}


@pytest.mark.parametrize("failures", [FAILURES, pytest.param(MORE_FAILURES, marks=pytest.mark.slow)])
def test_clips_that_end_their_worker_are_dropped_and_the_rest_goes_on(
    make_pool: MakePool, root: Path, failures: dict[str, tuple[str | None, str | None]]
) -> None:
    """And nothing of the workers is left: no descriptor, no process, no thread."""
    with make_pool(workers=1) as first:  # multiprocessing's own helper starts with the first pool
        list(first.map([source(root, "first")]))
    before = traces()
    orders = [order for failing in failures for order in ("ok", failing)]
    with make_pool() as pool:
        clips = list(pool.map([source(root, f"failure-{i}", order) for i, order in enumerate(orders)]))
    assert traces() == before
    assert [clip.row.clip_id for clip in clips] == [f"failure-{i}" for i in range(len(orders))]
    assert outcomes(clips[::2]) == [BUILT] * len(failures)
    assert {o: (c.row.reason, c.row.detail) for o, c in zip(failures, clips[1::2], strict=True)} == failures
    assert all((clip.members is None) == (clip.row.status == "dropped") for clip in clips)
    assert all(clip.row.sha256 for clip in clips)  # so that another build sees whether a recording has changed


def traces() -> tuple[int, int, int]:
    """Open descriptors, child processes (zombies too) and threads of this process."""
    children = clip_builder.children(os.getpid(), zombies=True)
    return len(list(Path("/proc/self/fd").iterdir())), len(children), threading.active_count()


def test_a_worker_killed_from_outside_costs_nothing(pool: ClipPool, root: Path, calls: TextIO) -> None:
    killer = threading.Thread(target=lambda: os.kill(int(calls.readline()), signal.SIGKILL))
    killer.start()
    clips = list(pool.map(around(root, "once call stop")))
    killer.join()
    assert outcomes(clips) == [BUILT] * 7


def test_children_of_a_hung_worker_end_with_it(pool: ClipPool, root: Path) -> None:
    hung = source(root, "with-child", "hang")
    assert outcomes(list(pool.map([hung]))) == [("dropped", "timeout")]
    assert survivors([int(hung.video.with_suffix(".child").read_text())]) == []


def test_sources_that_cannot_be_read_end_the_map(pool: ClipPool, root: Path) -> None:
    def sources() -> Iterator[ClipSource]:
        yield source(root, "first")
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(pool.map(sources()))
    assert outcomes(list(pool.map([source(root, "next")]))) == [BUILT]


# --- starting and ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (clip_builder.dies_at_start, r"a worker died while starting \(exit code 7, 2 times\); run make doctor"),
        (clip_builder.cannot_be_loaded, r"a worker cannot start: ImportError: libGL.so.1: .*; run make doctor"),
    ],
)
def test_workers_that_cannot_start_end_the_build_in_one_line(
    make_pool: MakePool, root: Path, builder: MakeBuilder, message: str
) -> None:
    with make_pool(builder, workers=1) as pool, pytest.raises(EngineError, match=f"^{message}$"):
        list(pool.map(around(root, "ok")))


def test_a_worker_that_never_starts_ends_the_build_in_one_line(
    make_pool: MakePool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.pool.START_SECONDS", 0.1)
    message = r"^a worker did not start within 0.1 s; run make doctor$"
    with make_pool(clip_builder.hangs_at_start, workers=1) as pool, pytest.raises(EngineError, match=message):
        list(pool.map(around(root, "ok")))


def test_a_worker_that_dies_while_starting_is_started_again(make_pool: MakePool, root: Path) -> None:
    with make_pool(clip_builder.dies_at_first_start, workers=1) as pool:
        assert outcomes(list(pool.map(around(root, "ok")))) == [BUILT] * 7
    assert (root / "started").is_dir()


def test_too_many_processes_is_one_line(make_pool: MakePool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", refuse)
    with make_pool() as pool, pytest.raises(EngineError, match=r"\(Resource temporarily unavailable\); use fewer"):
        list(pool.map(around(root, "ok")))


def test_leaving_the_pool_ends_busy_workers_at_once(make_pool: MakePool, root: Path, calls: TextIO) -> None:
    with make_pool() as pool:
        clips = pool.map([source(root, "done"), *(source(root, f"busy-{i}", "call sleep 1000") for i in range(9))])
        assert next(clips).row.clip_id == "done"
        workers = [int(calls.readline()) for _ in range(WORKERS)]
    assert [pid for pid in workers if clip_builder.is_alive(pid)] == []


def test_workers_hear_no_interrupt_and_lead_their_own_group(make_pool: MakePool, root: Path, calls: TextIO) -> None:
    """Ctrl-C reaches every process of the terminal's group; workers must not answer it, not even while they start."""
    with make_pool() as pool:
        list(pool.map([source(root, f"requested-{i}", "call") for i in range(8)]))
        for worker in {int(calls.readline()) for _ in range(8)}:
            status = Path(f"/proc/{worker}/status").read_text()
            blocked = next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1]
            assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
            assert os.getpgid(worker) == os.getsid(worker) == worker


def test_a_system_that_cannot_limit_memory_builds(root: Path, make_pool: MakePool) -> None:
    with make_pool(builder_of_macos, workers=1) as pool:
        assert outcomes(list(pool.map([source(root, "unlimited")]))) == [BUILT]

"""Every engine makes the same bytes, whatever dies on the way; programs, processes and clusters are real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from builder import engines
from builder.config import BuildConfig
from builder.engines import BuildContext, DaskCluster, build_shard
from builder.pool import EngineError
from builder.run import plan_build
from manifests import index
from manifests.verify import verify
from tests.fakes import clip_builder
from tests.fakes.build_process import FAKE, Running, contents

SPEAKERS = {name: {f"{name.lower()}{clip}": "sleep 0.02" for clip in range(4)} for name in "ABCDE"}
LOCAL, RANKS, DASK = "local", "two ranks", "dask"
#: Arguments of each program that an engine takes.
ENGINES = {
    LOCAL: [("--workers", "2")],
    RANKS: [("--workers", "1", "--rank", str(rank), "--world-size", "2") for rank in range(2)],
    DASK: [("--workers", "2", "--engine", "dask")],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return clip_builder.corpus(tmp_path / "data", SPEAKERS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def started(engine: str, data: Path, out: Path, *arguments: str) -> list[Running]:
    return [Running(FAKE, data, out, *own, *arguments) for own in ENGINES[engine]]


def ended(programs: list[Running]) -> list[tuple[int, str, str]]:
    """All are waited for before any is judged."""
    return [program.end() for program in programs]


def undisturbed(data: Path, *arguments: str) -> dict[str, bytes]:
    """What one worker makes of a corpus to which nothing happens any more."""
    out = data.with_name("undisturbed")
    assert Running(FAKE, data, out, "--workers", "1", "--allow-drops", *arguments).end()[0] == 0
    return contents(out)


# --- one conformance suite over all ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [*(pytest.param(name, marks=pytest.mark.slow) for name in (LOCAL, RANKS)), DASK])
def test_equal_bytes_with_a_clip_that_is_poison_and_one_that_hangs(engine: str, data: Path, out: Path) -> None:
    (data / "b1.mp4").write_text("crash")
    (data / "d2.mp4").write_text("hang")
    arguments = ("--clip-seconds", "2", "--allow-drops")
    for status, said, complained in ended(started(engine, data, out, *arguments)):
        assert status == 0, (said, complained)
    reasons = {row.clip_id: row.reason for row in index.load_rows(out) if row.reason}
    assert reasons == {"b1": "worker_died", "d2": "timeout"}
    assert verify(out, full=True) == []
    assert contents(out) == undisturbed(data, "--clip-seconds", "2")


@pytest.mark.parametrize("engine", [RANKS, *(pytest.param(name, marks=pytest.mark.slow) for name in (LOCAL, DASK))])
@pytest.mark.parametrize(
    "group", [pytest.param(True, id="with all it started", marks=pytest.mark.slow), pytest.param(False, id="alone")]
)
def test_killed_then_resumed_ends_with_the_same_bytes(engine: str, group: bool, data: Path, out: Path) -> None:
    os.mkfifo(data / "caller")
    (data / "c2.mp4").write_text("once call sleep 1000")
    with os.fdopen(os.open(data / "caller", os.O_RDWR)) as calls:
        programs = started(engine, data, out)
        calls.readline()
        for program in programs:
            assert program.end(signal.SIGKILL, group=group)[0] in (-signal.SIGKILL, 0)  # a rank may have been done
    assert not index.load_dataset(out).complete
    assert [status for status, *_ in ended(started(engine, data, out))] == [0] * len(programs)
    assert contents(out) == undisturbed(data)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [LOCAL, DASK])
def test_every_shard_built_twice_at_once(engine: str, data: Path, out: Path) -> None:
    """Whoever is one of one rank does all of it, and bars nobody else from doing the same."""
    own = ENGINES[engine][0][:2] + (("--engine", "dask") if engine == DASK else ())
    twins = [Running(FAKE, data, out, *own, "--rank", "0", "--world-size", "1") for _ in range(2)]
    assert [status for status, *_ in ended(twins)] == [0, 0]
    assert verify(out, full=True) == []
    assert contents(out) == undisturbed(data)


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_nothing(data: Path, out: Path) -> None:
    (data / "c2.mp4").write_text("once bereave")
    status, said, complained = started(DASK, data, out)[0].end()
    assert status == 0, complained
    assert "built 20   dropped 0\n" in said
    assert contents(out) == undisturbed(data)


@pytest.mark.slow
def test_a_clip_that_kills_every_dask_worker_ends_the_build_in_one_line(data: Path, out: Path) -> None:
    (data / "c2.mp4").write_text("bereave")
    status, _, complained = started(DASK, data, out)[0].end()
    assert status == 2
    assert complained.splitlines()[-1].startswith("error: C-000.tar-")
    assert complained.endswith(": every Dask worker that built it died; run make doctor there\n")


# --- parts -----------------------------------------------------------------------------------------------------


def test_the_last_part_to_end_writes_the_index(data: Path, out: Path) -> None:
    part = [("--rank", str(rank), "--world-size", "3", "--workers", "1") for rank in range(3)]
    for rank, there in ((2, 1), (0, 3)):
        status, said, _ = Running(FAKE, data, out, *part[rank]).end()
        assert (status, said.splitlines()[-1]) == (
            0,
            f"shards    {out}: {there} of 5 are finished; the last process to finish writes the index",
        )
        assert not index.load_dataset(out).complete
    assert "built 20   dropped 0\n" in Running(FAKE, data, out, *part[1]).end()[1]
    assert contents(out) == undisturbed(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rank", "3", "--world-size", "3"), "rank: found 3 of 3, expected 0 to world size - 1"),
        (("--rank", "0"), "--rank and --world-size (make: RANK=, WORLD_SIZE=): found one of them, expected both"),
        (
            ("--scheduler", "tcp://x"),
            "--scheduler (make: SCHEDULER=): only valid with --engine dask (make: ENGINE=dask)",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str, data: Path, out: Path) -> None:
    assert Running(FAKE, data, out, *arguments).end() == (2, "", f"error: {message}\n")


def test_a_part_and_a_whole_build_do_not_meet(data: Path, out: Path) -> None:
    os.mkfifo(data / "caller")
    (data / "a1.mp4").write_text("call sleep 1000")
    with os.fdopen(os.open(data / "caller", os.O_RDWR)) as calls:
        part = Running(FAKE, data, out, "--rank", "0", "--world-size", "2")
        calls.readline()
        status, _, complained = Running(FAKE, data, out).end()
        part.end(signal.SIGKILL)
    owner = f"process {part.process.pid} on {os.uname().nodename}"
    assert (status, complained) == (
        2,
        f"error: {out}: locked by {owner}; wait for it, or choose another OUT=\n",
    )


# --- a cluster that others have started ------------------------------------------------------------------------


@contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[str]:
    """Address of a scheduler with one worker, each a program as `dask scheduler` and `dask worker` start it."""
    file = folder / "scheduler.json"
    dask = shutil.which("dask", path=Path(sys.executable).parent)
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    with ExitStack() as stack:
        for arguments in (
            ("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
            ("worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(file)),
        ):
            program = subprocess.Popen(
                [str(dask), *arguments],
                env=os.environ | paths | environment,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(program.wait, timeout=60)
            stack.callback(program.terminate)
            while not file.exists():
                assert program.poll() is None
                time.sleep(0.05)
        yield index.read_json(file)["address"]


@pytest.mark.slow
def test_a_cluster_of_others(data: Path, out: Path, tmp_path: Path) -> None:
    with cluster(tmp_path, DASK_DISTRIBUTED__WORKER__DAEMON="False") as address:
        ours = Running(FAKE, data, out, "--engine", "dask", "--scheduler", address)
        status, _, complained = ours.end()
    assert status == 0, complained
    assert contents(out) == undisturbed(data)


@pytest.mark.slow
def test_a_cluster_whose_workers_may_not_start_processes(data: Path, out: Path, tmp_path: Path) -> None:
    with cluster(tmp_path) as address:
        status, _, complained = Running(FAKE, data, out, "--engine", "dask", "--scheduler", address).end()
    assert status == 2
    assert complained.splitlines()[-1] == (
        f"error: the Dask worker on {os.uname().nodename} may not start processes; "
        "start it with DASK_DISTRIBUTED__WORKER__DAEMON=False in its environment"
    )


def work(data: Path, out: Path, identity: str = "another") -> BuildContext:
    config = BuildConfig(dataset="folder")
    return BuildContext(config=config, root=data, out=out, identity=identity, make_builder=clip_builder.FakeBuilder)


def test_a_cluster_that_is_not_there(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WAIT_SECONDS", 0.5)
    with pytest.raises(EngineError, match=r"^tcp://127\.0\.0\.1:9: found no Dask cluster with workers"):
        DaskCluster(scheduler="tcp://127.0.0.1:9").build(work(data, out), (), print)


def test_without_dask_the_line_says_what_brings_it(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(EngineError, match=r"; pip install '(\.|multimae-der)\[dask\]'"):
        DaskCluster().build(work(data, out), (), print)


def test_a_machine_with_other_versions_does_not_build(data: Path, out: Path) -> None:
    shard = plan_build(BuildConfig(dataset="folder"), data).shards[0]
    with pytest.raises(
        EngineError, match=r"package versions, models or settings differ; install the same constraints\.txt on it"
    ):
        build_shard(work(data, out), shard)
    assert not out.exists()

"""Builds that are killed, run out of disk, meet another build or a changed corpus; all end with the same bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from builder import engines, run
from builder.config import BuildConfig
from builder.datasets.base import CorpusError
from builder.engines import LocalPool
from builder.pool import ClipPool
from builder.run import BuildJob, BuildSummary, build
from manifests import index
from manifests.files import FolderError, HashingFile, describe_os_error, exclusive_lock, partial_files
from manifests.verify import verify
from manifests.withdraw import PENDING_WITHDRAWAL_FILE, withdraw
from tests.fakes import clip_builder
from tests.kills import KILL_STEPS, KILLS, forked, killed_at_random

SPEAKERS = {
    "A": {"a1": "ok", "a2": "drop no_face", "a3": "ok"},
    "B": {"b1": "drop no_audio"},
    "C": {"c1": "ok", "c2": "ok"},
    "D": {"d1": "big 1000"},
}
Contents = dict[str, bytes]
IDENTITY = run.identity(BuildConfig(dataset="folder"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes, no face models, and no search for the versions of what is installed."""
    monkeypatch.setattr(engines, "ClipPool", clip_builder.InProcessPool)
    monkeypatch.setattr(run, "identity", lambda config: IDENTITY | {"config": asdict(config)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return clip_builder.corpus(tmp_path / "data", SPEAKERS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "shards"


def job(data: Path, out: Path, workers: int = 1, **config: Any) -> BuildJob:
    return BuildJob(
        config=BuildConfig(dataset="folder", **config),
        data=data,
        out=out,
        engine=LocalPool(workers=workers),
        make_builder=clip_builder.FakeBuilder,
    )


def contents(folder: Path) -> Contents:
    """Every file and its bytes; what is left of an unfinished write, and the lock, too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(data: Path, **config: Any) -> Contents:
    """What a build that nothing happens to makes of a corpus."""
    out = data.parent / "undisturbed"
    build(job(data, out, **config))
    assert verify(out, full=True) == []
    found = contents(out)
    shutil.rmtree(out)
    return found


def no_pool(*_: object) -> NoReturn:
    raise AssertionError("there is nothing to build")


# --- killed at every write -------------------------------------------------------------------------------------

CALLS = ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir"), (HashingFile, "write"))


class Fault:
    """Counts the calls that change the disk and, at the one it is told, calls `strike` in its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, strike: Callable[..., object]) -> None:
        self.at, self.count, self.strike = at, 0, strike
        for owner, name in CALLS:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.strike(*arguments)
            return call(*arguments, **keywords)

        return counted


def die(*arguments: object) -> None:
    """End as by `kill -9`; a write gets half of its bytes to the disk."""
    if isinstance(arguments[0], HashingFile):
        file, data = arguments[0]._file, arguments[1]
        file.write(data[: len(data) // 2])
        file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def killed(job: BuildJob, at: int) -> bool:
    """Build in a forked process that dies at a call; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                Fault(monkeypatch, at, die)
                build(job)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check_nothing_half_published(out: Path, before: Contents, after: Contents) -> None:
    """Every file under its own name is whole, and a folder that passes the quick check would pass the full one."""
    for name, data in contents(out).items():
        if not Path(name).name.startswith(".") and name != "B-000.tar":  # an empty tar, about to be removed
            assert data in (before.get(name), after.get(name)) or is_draft(name, data), name
    if (out / index.SUMS_FILE).exists() and verify(out) == []:
        assert verify(out, full=True) == []


def is_draft(name: str, data: bytes) -> bool:
    return name == index.DATASET_FILE and json.loads(data)["complete"] is False


@KILL_STEPS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_write_then_resumed_ends_with_the_same_bytes(data: Path, out: Path, step: int) -> None:
    expected = undisturbed(data)
    points = 0
    while killed(job(data, out), at=points + step):
        points += step
        check_nothing_half_published(out, {}, expected)
        build(job(data, out))
        assert contents(out) == expected, f"killed at call {points}"
        shutil.rmtree(out)
    assert points + step > 60
    assert contents(out) == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.slow
def test_killed_again_and_again_ends_with_the_same_bytes(data: Path, out: Path) -> None:
    expected = undisturbed(data)
    at = 1
    while killed(job(data, out), at):
        check_nothing_half_published(out, {}, expected)
        at += 1  # each run comes one call further than the last
    assert contents(out) == expected
    assert at > 10


@KILL_STEPS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_while_following_a_changed_corpus(data: Path, out: Path, step: int) -> None:
    build(job(data, out))
    shutil.copytree(out, data.parent / "before")
    before = contents(out)
    changed = {name: clips for name, clips in SPEAKERS.items() if name != "C"} | {"E": {"e1": "ok"}}
    clip_builder.corpus(data, changed | {"D": {"d1": "big 900", "d2": "ok"}, "B": {"b1": "ok"}})
    expected = undisturbed(data)
    points = 0
    while killed(replace(job(data, out), prune=True), at=points + step):
        points += step
        check_nothing_half_published(out, before, expected)
        build(replace(job(data, out), prune=True))
        assert contents(out) == expected, f"killed at call {points}"
        shutil.rmtree(out)
        shutil.copytree(data.parent / "before", out)
    assert points + step > 40


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("frames", ["16", "all"])
def test_kills_at_random_moments_end_with_the_same_bytes(
    data: Path, out: Path, frames: str, record_property: Callable[[str, object], None]
) -> None:
    expected = undisturbed(data, frames=frames)

    def ended() -> None:
        assert contents(out) == expected
        shutil.rmtree(out)

    builds = killed_at_random(
        forked(lambda: build(job(data, out, frames=frames))),
        lambda: check_nothing_half_published(out, {}, expected),
        ended,
    )
    kind = BuildConfig(dataset="folder", frames=frames).kind
    record_property("seen", f"{KILLS} random kills of build ({kind}) in {builds} builds, all ended with the same bytes")


# --- disk full, not writable -----------------------------------------------------------------------------------


@KILL_STEPS
def test_disk_full_at_any_write_says_where_and_leaves_nothing_half_published(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    expected = undisturbed(data)
    writes = 0

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.modules[__name__], "CALLS", ((os, "fsync"), (HashingFile, "write")))
    while True:
        with pytest.MonkeyPatch.context() as patched:
            fault = Fault(patched, writes + 1, full)
            try:
                build(job(data, out))
                break
            except OSError as error:
                message = describe_os_error(error)
        assert fault.count >= writes + 1
        writes += step
        assert message.startswith(f"{out}/"), message
        assert " MB free; make room and run the same command again" in message
        assert not [name for name in contents(out) if name.endswith(".part")]
        check_nothing_half_published(out, {}, expected)
        build(job(data, out))
        assert contents(out) == expected
        shutil.rmtree(out)
    assert writes > 40


@pytest.mark.parametrize("where", ["a file", "in a file"])
def test_not_writable_fails_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(engines, "ClipPool", no_pool)
    file = tmp_path / "file"
    file.write_text("mine")
    out = file if where == "a file" else file / "shards"
    with pytest.raises(FolderError, match=rf"^{out}: cannot be written \(.*\); choose another folder with OUT=$"):
        build(job(data, out))
    assert file.read_text() == "mine"


def test_a_file_that_reads_back_otherwise_is_not_published(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a network file system or a disk lost a byte."""
    sync = os.fsync

    def corrupting(descriptor: int) -> None:
        sync(descriptor)
        for partial in partial_files(out / "C-000.tar"):
            partial.write_bytes(partial.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(os, "fsync", corrupting)
    with pytest.raises(OSError, match="read back SHA-256") as raised:
        build(job(data, out))
    assert describe_os_error(raised.value).startswith(f"{out}/C-000.tar: read back")
    assert not (out / "C-000.tar").exists()


# --- other builds in the folder --------------------------------------------------------------------------------


def test_a_second_build_is_refused_naming_the_owner(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(job(data, out))
    monkeypatch.setattr(engines, "ClipPool", no_pool)
    before = contents(out)
    with exclusive_lock(out):
        owner = f"locked by process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(FolderError, match=rf"^{out}: {owner}; wait for it, or choose another OUT=$"):
            build(job(data, out))
    assert contents(out) == before


def test_a_lock_left_behind_is_taken_over(data: Path, out: Path) -> None:
    expected = undisturbed(data)
    out.mkdir()
    (out / ".lock").write_text("process 1 on another-machine-with-a-long-name\n")
    build(job(data, out))
    assert contents(out) == expected
    assert expected[".lock"] == b""  # whoever is given the folder need not know where it was made


def test_a_file_system_without_locks_is_named(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FolderError, match=r"cannot be locked \(No locks available\)"):
        build(job(data, out))


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"align": "clip"}, "config.align: frame -> clip"),
        ({"timeline": "fixed", "step_frames": 4}, "config.step_frames: 6 -> 4; config.timeline: uniform -> fixed"),
        ({"features": ("mfcc", "stft")}, r"config.features: \['mfcc'\] -> \('mfcc', 'stft'\)"),
    ],
)
def test_another_configuration_is_refused_naming_the_difference(
    data: Path, out: Path, config: dict[str, Any], difference: str
) -> None:
    build(job(data, out))
    before = contents(out)
    with pytest.raises(FolderError, match=rf"^{out}: was built differently \({difference}\); choose another OUT=$"):
        build(job(data, out, **config))
    assert contents(out) == before


def test_other_versions_are_refused_naming_them(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(job(data, out))
    identity = run.identity(job(data, out).config)
    newer = identity | {"versions": identity["versions"] | {"ai-edge-litert": "99.0"}}
    monkeypatch.setattr(run, "identity", lambda _: newer)
    with pytest.raises(FolderError, match=r"\(versions.ai-edge-litert: [\d.]+ -> 99.0\)"):
        build(job(data, out))


def test_tars_that_no_build_made_are_left_alone(data: Path, out: Path) -> None:
    out.mkdir()
    (out / "photos.tar").write_bytes(b"mine")
    (out / ".album.part").write_bytes(b"mine, too")
    with pytest.raises(FolderError, match=rf"^{out}/photos.tar: not written by a build: found no dataset.json; "):
        build(job(data, out))
    assert {name for name in contents(out) if name != ".lock"} == {"photos.tar", ".album.part"}


def test_links_among_other_files_are_none_of_ours_to_remove(data: Path, out: Path) -> None:
    out.mkdir()
    (out / "lib").mkdir()
    (out / "lib64").symlink_to("lib")
    (out / "lib" / "notes.txt").touch()
    found = rf"^{out}/lib/notes.txt: not written by a build: found no dataset.json; choose an empty folder with OUT=$"
    with pytest.raises(FolderError, match=found):
        build(job(data, out))
    (out / "lib" / "notes.txt").unlink()
    with pytest.raises(FolderError, match="lib64: found a link"):
        build(job(data, out))


# --- the same corpus again, or a changed one -------------------------------------------------------------------


def test_nothing_is_built_twice_whatever_the_clock_says(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(job(data, out))
    before = contents(out)
    for seconds, path in enumerate([*data.rglob("*"), *out.rglob("*"), data, out]):
        os.utime(path, (4e9 - seconds, 4e9 - seconds))
    monkeypatch.setattr(engines, "ClipPool", no_pool)
    summary = build(job(data, out))
    assert (len(summary.dataset.shards), summary.resumed) == (3, 3)
    assert contents(out) == before


class Built:
    """Names of the clips that a build really built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clips: list[str] = []
        monkeypatch.setattr(clip_builder.FakeBuilder, "build", self._noting(clip_builder.FakeBuilder.build))

    def _noting(self, build: Callable[..., Any]) -> Callable[..., Any]:
        def noting(stand_in: object, source: Any) -> Any:
            self.clips.append(source.clip.clip_id)
            return build(stand_in, source)

        return noting


def edit(table: Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


def add(data: Path, name: str, speaker: str) -> None:
    clip_builder.source(data, name)
    table = data / "clips.csv"
    table.write_text(table.read_text() + f"{name}.mp4,{speaker},happy\n")


CHANGES: Mapping[str, tuple[Callable[[Path], object], set[str]]] = {
    "a recording": (lambda data: (data / "c1.mp4").write_text("ok  "), {"c1", "c2"}),
    "a dropped recording": (lambda data: (data / "a2.mp4").write_text("ok"), {"a1", "a2", "a3"}),
    "a label": (lambda data: edit(data / "clips.csv", "d1.mp4,D,sad", "d1.mp4,D,happy"), {"d1"}),
    "an added clip": (lambda data: add(data, "a4", "A"), {"a1", "a2", "a3", "a4"}),
    "an added speaker": (lambda data: add(data, "e1", "E"), {"e1"}),
    "a removed clip": (lambda data: edit(data / "clips.csv", "c2.mp4,C,happy\n", ""), {"c1"}),
    "a removed speaker": (lambda data: edit(data / "clips.csv", "d1.mp4,D,sad\n", ""), set()),
    "a clip of another speaker": (lambda data: edit(data / "clips.csv", "c2.mp4,C", "c2.mp4,D"), {"c1", "c2", "d1"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_shards_of_what_changed_are_built_again(
    change: str, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(job(data, out))
    apply, rebuilt = CHANGES[change]
    apply(data)
    with monkeypatch.context() as noting:
        built = Built(noting)
        build(replace(job(data, out), prune=True))
    assert set(built.clips) == rebuilt
    assert contents(out) == undisturbed(data)


def test_shards_of_a_speaker_who_is_gone_are_kept_unless_told_otherwise(data: Path, out: Path) -> None:
    """A corpus that is mounted by half looks like one that shrank."""
    build(job(data, out))
    before = contents(out)
    edit(data / "clips.csv", "d1.mp4,D,sad\n", "")
    with pytest.raises(FolderError, match=r"1 finished shard of .*D-000\.tar.*PRUNE=1"):
        build(job(data, out))
    assert contents(out) == before


@pytest.mark.parametrize("prune", [False, True])
def test_a_tar_that_no_build_made_is_never_removed(data: Path, out: Path, prune: bool) -> None:
    build(job(data, out))
    (out / "backup.tar").write_bytes(b"mine")
    with pytest.raises(FolderError, match=r"backup\.tar: a tar that was not written by a build"):
        build(replace(job(data, out), prune=prune))
    assert (out / "backup.tar").read_bytes() == b"mine"


def test_a_folder_of_somebody_elses_is_refused(data: Path) -> None:
    """The corpus's own folder, say."""
    before = contents(data)
    with pytest.raises(FolderError, match=r"not written by a build: found no dataset\.json"):
        build(job(data, data))
    assert {name: held for name, held in contents(data).items() if name != ".lock"} == before


def test_clips_lost_to_the_machine_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip_builder.corpus(
        tmp_path / "some", {"A": {"a1": "ok", "a2": "drop timeout"}, "B": {"b1": "drop no_face", "b2": "ok"}}
    )
    build(job(data, tmp_path / "out"))
    with monkeypatch.context() as noting:
        built = Built(noting)
        build(job(data, tmp_path / "out"))
    assert set(built.clips) == {"a1", "a2"}


def test_a_damaged_shard_is_built_again(data: Path, out: Path) -> None:
    build(job(data, out))
    before = contents(out)
    (out / "C-000.tar").write_bytes(before["C-000.tar"][:-512])
    assert build(job(data, out)).resumed == 2
    assert contents(out) == before


def test_lost_index_files_are_written_again(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(job(data, out))
    before = contents(out)
    for name in ("clips.jsonl", "SHA256SUMS", "README.md", "folds/loso.json"):
        (out / name).unlink()
    monkeypatch.setattr(engines, "ClipPool", no_pool)
    build(job(data, out))
    assert contents(out) == before


def test_one_configuration_makes_the_same_bytes_anywhere(data: Path, tmp_path: Path) -> None:
    first = undisturbed(data)
    moved = tmp_path / "another" / "place"
    shutil.copytree(data, moved)
    assert undisturbed(moved) == first


# --- what is wrong with the corpus -----------------------------------------------------------------------------


def test_two_files_with_one_clip_id_stop_the_build_naming_both(data: Path, out: Path) -> None:
    add(data, "A1", "A")
    with pytest.raises(CorpusError, match=r"clips.csv:2 and .*clips.csv:9: the same clip id"):
        build(job(data, out))
    assert not out.exists()


def drops(tmp_path: Path, dropped: int, kept: int) -> BuildSummary:
    orders = [*["drop decode_error"] * dropped, *["ok"] * kept]
    clips = {"S": {f"s{i}": order for i, order in enumerate(orders)}}
    return build(job(clip_builder.corpus(tmp_path / "data", clips), tmp_path / "out"))


def test_two_per_cent_may_be_dropped(tmp_path: Path) -> None:
    summary = drops(tmp_path, 2, 98)
    assert summary.failures() == []
    assert summary.reasons == {"decode_error": 2}
    assert summary.dataset.counts == {"built": 98, "dropped": 2}


def test_more_than_two_per_cent_is_a_failure_that_keeps_what_was_built(tmp_path: Path) -> None:
    summary = drops(tmp_path, 3, 97)
    assert summary.failures() == ["3 of 100 clips dropped, more than 2%"]
    assert verify(tmp_path / "out", full=True) == []


def test_an_empty_speaker_is_a_failure(tmp_path: Path) -> None:
    clips = {"S": {f"s{i}": "ok" for i in range(99)}, "T": {"t1": "drop no_face"}}
    summary = build(job(clip_builder.corpus(tmp_path / "data", clips), tmp_path / "out"))
    assert summary.failures() == ["no clip was built of speaker T"]
    assert verify(tmp_path / "out", full=True) == []


# --- any number of workers -------------------------------------------------------------------------------------


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ClipPool", ClipPool)


def test_any_number_of_workers_makes_the_same_bytes(data: Path, out: Path, pooled: None) -> None:
    (data / "a3.mp4").write_text("sleep 0.2")
    expected = undisturbed(data)  # by one worker
    for workers in (2, 3):
        build(job(data, out, workers))
        assert contents(out) == expected
        shutil.rmtree(out)


def test_clips_that_kill_their_worker_are_in_the_index(data: Path, out: Path, pooled: None) -> None:
    (data / "a1.mp4").write_text("crash")
    (data / "c1.mp4").write_text("once crash")
    build(job(data, out))
    rows = {row.clip_id: row for row in index.load_rows(out)}
    assert (rows["a1"].reason, rows["c1"].status) == ("worker_died", "built")
    assert list(rows) == sorted(rows)
    assert verify(out, full=True) == []
    assert build(job(data, out)).resumed == 2  # another try may do better


def test_clips_that_meet_an_error_of_the_program_are_dropped_for_good(data: Path, out: Path, pooled: None) -> None:
    (data / "a1.mp4").write_text("fail")
    (data / "c1.mp4").write_text("once fail")
    built = build(job(data, out))
    rows = {row.clip_id: row for row in index.load_rows(out)}
    assert (rows["a1"].reason, rows["a1"].detail) == ("internal_error", "ValueError: as ordered")
    assert (rows["c1"].reason, rows["c2"].status) == ("internal_error", "built")
    assert built.reasons["internal_error"] == 2
    assert verify(out, full=True) == []
    assert build(job(data, out)).resumed == 3  # the same program would fail again


def test_who_was_withdrawn_is_left_out_of_later_builds(data: Path, out: Path) -> None:
    build(job(data, out))
    (gone, *_) = sorted({row.speaker for row in index.load_rows(out)})
    withdraw(out, [gone])
    after = contents(out)
    summary = build(job(data, out))
    assert summary.dataset.withdrawn == (gone,)
    assert summary.resumed == len(summary.dataset.shards)
    assert contents(out) == after
    assert verify(out, full=True) == []


def test_a_withdrawal_that_was_killed_is_ended_before_anything_is_built(data: Path, out: Path) -> None:
    build(job(data, out))
    (out / PENDING_WITHDRAWAL_FILE).write_text('["a"]')
    with pytest.raises(FolderError, match="contains an unfinished withdrawal"):
        build(job(data, out))


def test_absent_files_of_the_inventory_are_in_the_index(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = run.scan_corpus
    absent = tuple(f"absent-{number:03}.mp4" for number in range(run.MISSING_NAMED + 5))
    monkeypatch.setattr(run, "scan_corpus", lambda *arguments: replace(scan(*arguments), missing=absent))
    build(job(data, out))
    dataset = index.load_dataset(out)
    assert (dataset.missing, dataset.missing_names) == (len(absent), absent[: run.MISSING_NAMED])

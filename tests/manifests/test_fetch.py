"""Fetch: what a fold needs of a published folder and no more, complete, once; whatever changes there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import download, index
from manifests import fetch as fetching
from manifests.__main__ import main
from manifests.fetch import FetchError, FoldRequest, fetch
from manifests.folds import FoldError, resolve_fold
from manifests.index import ManifestError
from manifests.stores import StoreError, UnreachableError, open_store
from manifests.verify import verify
from tests.factories.builder_shards import resign, shard_folder
from tests.fakes.servers import Fault, FileServer
from tests.fakes.stores import KINDS, published
from tests.kills import KILL_STEPS

Capture = pytest.CaptureFixture[str]
SHARDS = {"anna-000.tar", "ben-000.tar", "cleo-000.tar"}
#: Of the fold that tests anna.
TRAIN = {"ben-000.tar", "cleo-000.tar"}


@pytest.fixture
def there(folder: Path) -> Path:
    """A published folder, to be changed."""
    return folder


@pytest.fixture
def server(there: Path) -> Iterator[FileServer]:
    with FileServer(there, prefix="lab/shards") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))


def files(folder: Path) -> set[str]:
    """Names of all files that are not hidden."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(".")}


def tars(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def same(one: Path, other: Path, names: set[str]) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def part_of(*shards: str) -> set[str]:
    """Files of a part with these shards."""
    receipts = {index.receipt_name(shard) for shard in shards}
    index_files = {"README.md", "SHA256SUMS", "clips.jsonl", "croissant.json", "dataset.json", "folds/loso.json"}
    return {*index_files, *shards, *receipts}


def checks(folder: Path) -> None:
    """Our own check and the system's find nothing wrong."""
    assert verify(folder, full=True) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "--ignore-missing", "SHA256SUMS"], cwd=folder, check=True)


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, there: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the same folder, published in every way."""
    with published(request.param, there, monkeypatch) as location:
        yield location


def test_what_training_needs_comes_from_any_place(address: str, there: Path, here: Path) -> None:
    report = fetch(address, here, FoldRequest(fold="anna", splits=("train",)))
    assert (report.address, report.moved, report.problems) == (address, 2, ())
    assert {shard.name for shard in report.local} == tars(here) == TRAIN
    assert files(here) == part_of(*TRAIN) | {"fetched.json"}
    assert same(here, there, part_of(*TRAIN))
    checks(here)


def test_everything_comes_from_any_place(address: str, there: Path, here: Path) -> None:
    fetch(address, here)
    assert files(here) == files(there) | {"fetched.json"}
    assert same(here, there, files(there))
    checks(here)


def test_the_part_is_written_down(server: FileServer, here: Path) -> None:
    fetch(server.url, here, FoldRequest(fold="1", splits=("train",)))
    assert json.loads((here / "fetched.json").read_text()) == {
        "source": server.url,
        "selections": [{"scheme": "loso", "fold": "anna", "sides": ["train", "validation"]}],
        "shards": sorted(TRAIN),
    }


def test_a_second_run_asks_for_the_sums_alone(server: FileServer, here: Path) -> None:
    wanted = FoldRequest(fold="anna", splits=("train",))
    first = fetch(server.url, here, wanted)
    assert first.moved_bytes == sum((here / n).stat().st_size for s in TRAIN for n in (s, index.receipt_name(s)))
    assert sorted(server.requested) == sorted(part_of(*TRAIN))
    server.behave()
    before = {name: (here / name).read_bytes() for name in files(here)}
    again = fetch(server.url, here, wanted)
    assert (again.moved, again.moved_bytes, again.problems) == (0, 0, ())
    assert server.requested == ["SHA256SUMS"]
    assert {name: (here / name).read_bytes() for name in files(here)} == before


@pytest.mark.parametrize(
    ("splits", "shards"),
    [
        ((), SHARDS),
        (("train",), TRAIN),
        (("test",), {"anna-000.tar"}),
        (("validation",), {"cleo-000.tar"}),
        (("test", "train"), SHARDS),
    ],
)
def test_sides_are_chosen(there: Path, here: Path, splits: tuple[str, ...], shards: set[str]) -> None:
    fetch(str(there), here, FoldRequest(fold="anna", splits=splits))
    assert tars(here) == shards
    checks(here)


def test_another_fold_adds_to_what_is_here(server: FileServer, here: Path) -> None:
    fetch(server.url, here, FoldRequest(fold="anna", splits=("test",)))
    server.behave()
    fetch(server.url, here, FoldRequest(fold="ben", scheme="loso", splits=("test",)))
    assert sorted(server.requested) == ["SHA256SUMS", "ben-000.tar", "receipts/ben-000.json"]
    assert tars(here) == {"anna-000.tar", "ben-000.tar"}
    checks(here)
    fetch(server.url, here)
    assert tars(here) == SHARDS
    fetch(server.url, here, FoldRequest(fold="ben", splits=("test",)))
    assert tars(here) == SHARDS  # what is whole stays so
    checks(here)


def test_a_damaged_or_lost_file_is_mended(server: FileServer, there: Path, here: Path) -> None:
    fetch(server.url, here, FoldRequest(fold="anna", splits=("train",)))
    (here / "ben-000.tar").write_bytes(b"x" * (there / "ben-000.tar").stat().st_size)
    (here / "receipts" / "cleo-000.json").unlink()
    (here / "dataset.json").write_text("{")
    assert fetch(server.url, here, FoldRequest(fold="anna", splits=("train",))).moved == 2
    assert same(here, there, part_of(*TRAIN))
    checks(here)


def test_one_wrong_shard_does_not_keep_the_rest(server: FileServer, here: Path, capsys: Capture) -> None:
    server.misbehave("ben-000.tar", always=Fault(change=lambda data: b"x" * len(data)))
    assert main(["fetch", server.url, str(here)]) == 1
    out, err = capsys.readouterr()
    out = out.splitlines()
    expected = {shard.name: shard.sha256 for shard in index.load_dataset(here).shards}["ben-000.tar"]
    assert out[0].startswith(f"BAD  {server.url}/ben-000.tar: found SHA-256 ")
    assert f", expected {expected}; " in out[0]
    assert re.fullmatch(r"2 shards fetched, \S+ MB; 0 of 3 shards already present", out[1])
    assert out[-1] == "1 not fetched; run the same command to retry"
    sizes = {shard.name: shard.bytes / 1e6 for shard in index.load_dataset(here).shards}
    came, total = sum(sizes.values()) - sizes["ben-000.tar"], sum(sizes.values())
    assert re.fullmatch(rf"fetching: {came:.1f}/{total:.1f} MB, failed 1, fetched 2 \(\S+ MB a second\)", err.strip())
    assert came / total < 0.7
    assert tars(here) == TRAIN - {"ben-000.tar"} | {"anna-000.tar"}
    assert [str(problem) for problem in verify(here)] == ["ben-000.tar: found nothing, expected a file"]
    server.behave()
    assert main(["fetch", server.url, str(here)]) == 0
    assert [name for name in server.requested if name.endswith(".tar")] == ["ben-000.tar"]
    checks(here)


def test_when_nothing_can_be_had_any_more_it_ends(server: FileServer, here: Path) -> None:
    for shard in SHARDS:
        server.misbehave(shard, always=Fault(status=503))
    problems = fetch(server.url, here, threads=1, max_failures=2).problems
    assert problems[-1] == f"{server.url}: 2 consecutive files failed; the others were not tried"
    assert len(problems) == 3
    server.behave()
    assert fetch(server.url, here).problems == ()
    checks(here)


def test_the_command_says_what_it_did(there: Path, here: Path, capsys: Capture) -> None:
    command = ["fetch", str(there), str(here), "--fold", "anna", "--split", "train", "--dataset", "folder"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    size = sum((there / name).stat().st_size for name in TRAIN) / 1e6
    assert out.splitlines()[0].endswith("MB; 0 of 2 shards already present")
    assert out.splitlines()[1] == f"{here}: partial: 4 of 6 samples in 2 of 3 shards, {size:.1f} MB"
    assert err.startswith(f"fetching: {size:.1f}/{size:.1f} MB, fetched 2 (")
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[0] == "no files to fetch; 2 of 2 shards already present"
    assert main(["verify", str(here)]) == 0
    assert capsys.readouterr().out.startswith("partial: 4 of 6 samples in 2 of 3 shards")


def test_one_is_told_as_one(there: Path, here: Path, capsys: Capture) -> None:
    assert main(["fetch", str(there), str(here), "--fold", "anna", "--split", "test"]) == 0
    assert re.match(r"1 shard fetched, \S+ MB; 0 of 1 shard already present\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "9"], "unknown fold '9'; valid are anna, ben, cleo, or 1 to 3\n"),
        (["--fold", "anna", "--fold-scheme", "6fold"], "unknown fold scheme '6fold'; valid are loso"),
        (["--split", "test"], "found a split or a scheme, but no fold"),
        (
            ["--dataset", "crema-d"],
            "found shards of folder, expected crema-d; set DATASET=folder, and OUT= for another folder",
        ),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_one_line(
    there: Path, here: Path, arguments: list[str], message: str, capsys: Capture
) -> None:
    assert main(["fetch", str(there), str(here), *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert message in err
    assert not here.exists()


def test_what_is_refused_leaves_no_trace(there: Path, here: Path) -> None:
    for folder in (here / "new" / "folder", here):
        for address, wanted in ((there, FoldRequest(fold="9")), (there.parent, None)):
            with pytest.raises(StoreError):
                fetch(str(address), folder, wanted)
        assert not here.exists() or not list(here.iterdir())
        here.mkdir(exist_ok=True)
    assert here.exists()  # it was there before


@pytest.mark.parametrize(
    ("folds", "message"), [(("1", "2"), "1, 2$"), (("Ses01", "Ses02"), "Ses01, Ses02, or 1 to 2$")]
)
def test_a_fold_that_is_not_there_is_told_with_names_and_numbers(folds: tuple[str, ...], message: str) -> None:
    assert resolve_fold(folds, "2") == folds[1]
    with pytest.raises(FoldError, match=rf"^unknown fold '3'; valid are {message}"):
        resolve_fold(folds, "3")


def test_shards_of_too_few_speakers_have_no_fold(tmp_path: Path, here: Path) -> None:
    alone = shard_folder(tmp_path / "alone", speakers=("anna",), drops=False)
    with pytest.raises(FetchError, match="no fold scheme: 1 speaker, too few to leave one out"):
        fetch(str(alone), here, FoldRequest(fold="1"))


def test_a_place_without_shards_is_told(there: Path, here: Path) -> None:
    with pytest.raises(StoreError, match=rf"^{there.parent}/SHA256SUMS: not found$"):
        fetch(str(there.parent), here)
    (there / "SHA256SUMS").write_text("<html>welcome</html>\n")
    with pytest.raises(FetchError, match=rf"^{there}/SHA256SUMS:1: found '<html>"):
        fetch(str(there), here)


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/evil.tar", "a/b/c.tar", "https://x/y.tar", "..", "a\\b"])
def test_names_that_lead_elsewhere_are_refused(there: Path, here: Path, name: str) -> None:
    sums = (there / "SHA256SUMS").read_text()
    (there / "SHA256SUMS").write_text(f"{sums}{'0' * 64}  {name}\n")
    with pytest.raises(FetchError, match=r"SHA256SUMS:\d+: found .*expected a SHA-256 and a plain name"):
        fetch(str(there), here)
    assert not files(here)


def test_a_damaged_index_is_refused_and_nothing_of_it_is_kept(server: FileServer, here: Path) -> None:
    server.misbehave("dataset.json", always=Fault(change=lambda data: data.replace(b"anna", b"otto")))
    with pytest.raises(
        StoreError, match=rf"^{server.url}/dataset.json: found SHA-256 .*, expected .*; the source file is damaged"
    ):
        fetch(server.url, here)
    assert not files(here)


def test_a_file_without_a_sum_is_refused(there: Path, here: Path) -> None:
    sums = (there / "SHA256SUMS").read_text().splitlines(keepends=True)
    (there / "SHA256SUMS").write_text("".join(line for line in sums if "folds/" not in line))
    with pytest.raises(FetchError, match=r"SHA256SUMS: found no line for folds/loso\.json, expected one"):
        fetch(str(there), here)


def test_an_unfinished_build_is_not_fetched(there: Path, here: Path) -> None:
    path = there / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"complete": true', b'"complete": false'))
    resign(there)
    with pytest.raises(FetchError, match="found an unfinished build, expected a finished one"):
        fetch(str(there), here)


# The source changes.


def withdrawn(there: Path, speaker: str) -> None:
    """The source's folder, without one of its speakers."""
    speakers = [name for name in ("anna", "ben", "cleo", "dora") if name != speaker]
    shutil.rmtree(there)
    shard_folder(there, speakers=speakers)


@pytest.fixture
def four(there: Path) -> Path:
    """A published folder of four speakers: without one of them there are still folds."""
    shutil.rmtree(there)
    return shard_folder(there, speakers=("anna", "ben", "cleo", "dora"))


def test_a_speaker_who_was_withdrawn_there_is_told_and_removed_when_asked(
    four: Path, here: Path, capsys: Capture
) -> None:
    fetch(str(four), here)
    withdrawn(four, "ben")
    before = {name: (here / name).read_bytes() for name in files(here)}
    capsys.readouterr()
    assert main(["fetch", str(four), str(here)]) == 2
    assert capsys.readouterr().err == (
        f"error: {four}: speaker ben withdrawn since the last fetch; run again with --prune (make: PRUNE=1) to "
        "update this copy, or fetch into another folder\n"
    )
    assert {name: (here / name).read_bytes() for name in files(here)} == before
    assert main(["fetch", str(four), str(here), "--prune"]) == 0
    assert tars(here) == {"anna-000.tar", "cleo-000.tar", "dora-000.tar"}
    assert not (here / "receipts" / "ben-000.json").exists()
    assert capsys.readouterr().out.splitlines()[:2] == [
        "no files to fetch; 3 of 3 shards already present",
        "removed locally: ben-000.tar, receipts/ben-000.json",
    ]
    checks(here)


def test_a_speaker_of_whom_nothing_is_here_may_be_withdrawn(four: Path, here: Path) -> None:
    wanted = FoldRequest(fold="anna", splits=("test",))
    fetch(str(four), here, wanted)
    withdrawn(four, "ben")
    report = fetch(str(four), here, wanted)
    assert (report.moved, tars(here)) == (0, {"anna-000.tar"})
    checks(here)


def test_shards_that_were_built_again_are_replaced_when_asked(there: Path, here: Path) -> None:
    wanted = FoldRequest(fold="anna", splits=("train",))
    fetch(str(there), here, wanted)
    shutil.rmtree(there)
    shard_folder(there, features=("mfcc", "logmel"))
    with pytest.raises(FetchError, match=r"2 shards changed \(ben-000.tar, cleo-000.tar\) since the last fetch"):
        fetch(str(there), here, wanted)
    checks(here)
    assert fetch(str(there), here, wanted, prune=True).moved == 2
    assert same(here, there, part_of(*TRAIN))
    checks(here)


def test_a_source_that_has_grown_is_no_trouble(there: Path, here: Path) -> None:
    fetch(str(there), here)
    shutil.rmtree(there)
    shard_folder(there, speakers=("anna", "ben", "cleo", "dora"))
    assert fetch(str(there), here).moved == 1
    assert tars(here) == SHARDS | {"dora-000.tar"}
    checks(here)


def test_another_place_with_the_same_shards_will_do(there: Path, here: Path, tmp_path: Path) -> None:
    fetch(str(there), here, FoldRequest(fold="anna", splits=("train",)))
    copy = shutil.copytree(there, tmp_path / "copy")
    shutil.rmtree(there)
    assert fetch(str(copy), here).moved == 1
    assert json.loads((here / "fetched.json").read_text())["source"] == str(copy)
    checks(here)


def test_an_index_that_came_before_will_do_where_the_place_cannot_be_reached(
    there: Path, here: Path, capsys: Capture
) -> None:
    with FileServer(there) as gone:
        before = fetching.mirror_index(open_store(gone.url), here)
    place = open_store(gone.url)
    assert fetching.mirror_index(place, here) == before
    assert fetching.mirror_index(place, here) == before
    message = f"{gone.url}: cannot be reached; using the index that was fetched before\n"
    assert capsys.readouterr().err == message
    (here / "README.md").write_text("damaged")
    with pytest.raises(UnreachableError):
        fetching.mirror_index(place, here)
    with pytest.raises(UnreachableError):
        fetching.mirror_index(place, here / "new")
    assert not (here / "new").exists()


def test_an_index_that_came_before_will_not_do_where_there_is_none_any_more(server: FileServer, here: Path) -> None:
    fetching.mirror_index(open_store(server.url), here)
    server.misbehave("SHA256SUMS", always=Fault(status=404))
    with pytest.raises(StoreError, match="SHA256SUMS: not found"):
        fetching.mirror_index(open_store(server.url), here)


# The folder here.


def test_a_folder_that_was_built_here_is_left_alone(there: Path, whole: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(whole, tmp_path / "ours"))
    assert fetch(str(there), ours).moved == 0
    assert files(ours) == files(whole)
    other = shard_folder(tmp_path / "other", features=("logmel",))
    with pytest.raises(FetchError, match=rf"^{ours}: was built here and differs from {other}; choose another folder$"):
        fetch(str(other), ours, prune=True)
    assert same(ours, whole, files(whole))


def test_a_folder_is_not_fetched_from_itself(there: Path) -> None:
    with pytest.raises(FetchError, match="source and destination are the same folder"):
        fetch(str(there), there / ".." / there.name)


def test_an_unfinished_build_here_is_left_alone(there: Path, whole: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(whole, tmp_path / "ours"))
    path = ours / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"complete": true', b'"complete": false'))
    with pytest.raises(FetchError, match=rf"^{ours}: found an unfinished build; choose another folder"):
        fetch(str(there), ours)


def test_a_folder_of_other_things_is_left_alone(there: Path, here: Path) -> None:
    here.mkdir()
    (here / "thesis.tex").write_text("mine")
    with pytest.raises(FetchError, match=rf"^{here}: found files that are not shards; choose another folder"):
        fetch(str(there), here)
    assert files(here) == {"thesis.tex"}


def test_a_damaged_record_is_told(there: Path, here: Path) -> None:
    fetch(str(there), here, FoldRequest(fold="anna"))
    (here / "fetched.json").write_text('{"source": 1}')
    for check in (lambda: fetch(str(there), here), lambda: verify(here)):
        with pytest.raises(ManifestError, match=r"fetched\.json: fetched: found no \['selections', 'shards'\]"):
            check()


def test_a_part_misses_what_should_be_in_it_and_nothing_else(there: Path, here: Path) -> None:
    fetch(str(there), here, FoldRequest(fold="anna", splits=("train",)))
    assert verify(here) == verify(here, full=True) == []
    (here / "cleo-000.tar").unlink()
    (here / "receipts" / "ben-000.json").unlink()
    problems = [str(problem) for problem in verify(here)]
    assert problems == [f"{name}: found nothing, expected a file" for name in ("cleo-000.tar", "receipts/ben-000.json")]
    shutil.copy(there / "ben-000.tar", here / "anna-000.tar")  # in nobody's part, and wrong
    assert any(problem.file == "anna-000.tar" for problem in verify(here, full=True))


# Processes.


def in_another_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "manifests", "fetch", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_fetch_each_shard_once(server: FileServer, here: Path) -> None:
    processes = [in_another_process(server.url, str(here)) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    requested = [name for name in server.requested if name.endswith(".tar")]
    assert sorted(requested) == sorted(SHARDS)
    checks(here)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_is_gone_on_with(server: FileServer, there: Path, here: Path, how: signal.Signals) -> None:
    size = (there / "cleo-000.tar").stat().st_size
    rest = Fault(status=503, headers={"Retry-After": "300"})
    server.misbehave("cleo-000.tar", Fault(drop_after=size // 2), always=rest)
    process = in_another_process(server.url, str(here), "--threads", "1")
    while server.requested.count("cleo-000.tar") < 2:
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -how), err
    if how is signal.SIGINT:
        assert err.splitlines()[-1] == "interrupted; run the same command to continue"
    server.behave()
    assert fetch(server.url, here).problems == ()
    (resumed,) = (request for request in server.requests if request.name.endswith(".tar"))
    assert (resumed.name, resumed.first_byte) == ("cleo-000.tar", size // 2)
    assert not list(here.rglob("*.part"))
    checks(here)


#: Counts what changes files, prints how often that was, and dies at one of these times, before the change.
DYING = """
import os, signal, sys
from manifests.__main__ import main

def hook(event, arguments):
    global changes
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if opened or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
        changes += 1
        if changes == at:
            os.kill(os.getpid(), signal.SIGKILL)

changes, at = 0, int(sys.argv[1])
sys.addaudithook(hook)
status = main(["fetch", *sys.argv[2:], "--threads", "1"])
print(changes)
sys.exit(status)
"""


def dying(at: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fetch that dies before its change number `at`, from 1."""
    return subprocess.run(
        [sys.executable, "-c", DYING, str(at), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@KILL_STEPS
def test_killed_at_any_change_nothing_half_has_its_name_and_the_next_run_ends_alike(
    four: Path, tmp_path: Path, step: int
) -> None:
    """While a part of an older version gives way to all of a newer one."""
    part = tmp_path / "part"
    fetch(str(four), part, FoldRequest(fold="anna", splits=("train",)))
    older = {**index.load_checksums(four)}
    withdrawn(four, "ben")
    arguments = (str(four), str(tmp_path / "here"), "--prune")
    expected = dying(0, *(str(four), str(Path(shutil.copytree(part, tmp_path / "whole"))), "--prune"))
    changes = int(expected.stdout.splitlines()[-1])
    assert changes > 30
    for at in range(1, changes + 1, step):
        here = Path(shutil.copytree(part, tmp_path / "here"))
        assert dying(at, *arguments).returncode == -signal.SIGKILL
        newer = index.load_checksums(four)
        for name in files(here) - {"fetched.json", "SHA256SUMS"}:
            if Path(name).name.startswith("."):
                continue  # being received, under a name of its own
            assert index.file_sha256(here / name) in (older.get(name), newer.get(name)), (at, name)
        assert fetch(str(four), here, prune=True).problems == ()
        assert files(here) == files(four) | {"fetched.json"}
        assert same(here, four, files(four))
        assert not [path for path in here.rglob(".*") if path.name != ".lock"]
        shutil.rmtree(here)

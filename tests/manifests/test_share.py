"""Shards shared to a folder, a bucket and a repository: all of it or nothing that looks like it, whatever happens."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset

from manifests import index
from manifests.__main__ import main
from manifests.files import FolderError
from manifests.share import ShareError, ShareOptions, ShareResult, VerificationError, share
from manifests.stores import LocalFile, LocalStore, StoreError, open_writable_store
from manifests.verify import verify
from tests.factories.builder_shards import SPEAKERS, shard_folder
from tests.factories.licences import licensed_as
from tests.fakes import hub as fake_hub
from tests.fakes.hub import Repository
from tests.kills import KILL_STEPS, KILLS, forked, killed_at_random

Capture = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).parents[2]
INDEX = ("dataset.json", "SHA256SUMS")
REPORT = b"<html>faces</html>"
AFFIRMED = "the receiver holds the IEMOCAP licence"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three speakers that may be passed on, with a report."""
    return shareable(tmp_path_factory.mktemp("small") / "shards")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a fourth speaker."""
    return shareable(tmp_path_factory.mktemp("grown") / "shards", speakers=(*SPEAKERS, "dora"))


@pytest.fixture
def near(small: Path, tmp_path: Path) -> Path:
    """Shards to change."""
    return Path(shutil.copytree(small, tmp_path / "near"))


@pytest.fixture
def far(tmp_path: Path) -> Path:
    return tmp_path / "far"


def shareable(folder: Path, **made: Any) -> Path:
    licensed_as(shard_folder(folder, **made), "ravdess")
    (folder / "report.html").write_bytes(REPORT)
    return folder


def to(folder: Path, far: Path | str, **options: Any) -> ShareResult:
    return share(folder, open_writable_store(str(far)), ShareOptions(**options))


def contents(folder: Path) -> dict[str, bytes]:
    """What everybody sees."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def without_mark(files: dict[str, bytes]) -> dict[str, bytes]:
    """What was shared, without its mark."""
    return {name: data for name, data in files.items() if name != "SHARED.json"}


def check_sums(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


# --- a folder --------------------------------------------------------------------------------------------------


def test_far_end_is_a_folder_like_the_near_one(small: Path, far: Path) -> None:
    shared = to(small, far)
    assert without_mark(contents(far)) == contents(small)
    assert verify(far, full=True) == []
    check_sums(far)
    assert (shared.files, shared.sent) == (len(contents(far)), len(contents(far)))
    assert shared.bytes == shared.sent_bytes == sum(map(len, contents(far).values()))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_readers_read_the_far_end(small: Path, far: Path, tmp_path: Path) -> None:
    to(small, far)
    tars = sorted(map(str, far.glob("*.tar")))
    keys = [sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]
    assert len(keys) == 6
    code = f"import datasets; d = datasets.load_dataset({str(far)!r}, split='clips'); print(*d['__key__'])"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == keys, done.stderr


def test_second_share_sends_nothing(small: Path, far: Path) -> None:
    to(small, far)
    before = {path: path.stat().st_ino for path in far.rglob("*")}
    shared = to(small, far)
    assert (shared.sent, shared.sent_bytes, shared.removed) == (0, 0, ())
    assert {path: path.stat().st_ino for path in far.rglob("*")} == before


def test_only_what_is_not_right_there_is_sent_again(small: Path, far: Path) -> None:
    to(small, far)
    tar = far / "anna-000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:-1] + b"x")  # of the right size
    (far / "clips.jsonl").write_bytes(b"")
    (far / "receipts/ben-000.json").unlink()
    assert to(small, far).sent == 3 + len(INDEX)
    assert without_mark(contents(far)) == contents(small)


def test_locks_leftovers_and_hidden_files_stay_behind(near: Path, far: Path) -> None:
    for name in (".lock", ".anna-000.tar.7.part", ".secret"):
        (near / name).write_text("x")
    to(near, far)
    assert {path.name for path in far.rglob(".*")} == {".lock"}
    assert (far / ".lock").read_bytes() == b""


def test_report_goes_unless_it_is_left_out(small: Path, far: Path, tmp_path: Path) -> None:
    to(small, far)
    assert (far / "report.html").read_bytes() == REPORT
    to(small, tmp_path / "without", report=False)
    assert not (tmp_path / "without/report.html").exists()
    with pytest.raises(
        ShareError, match=r"contains files that are no longer in .*: report\.html; PRUNE=1 removes them"
    ):
        to(small, far, report=False)
    assert to(small, far, report=False, prune=True).removed == ("report.html",)
    assert not (far / "report.html").exists()


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "anna-000.tar": lambda folder: (folder / "anna-000.tar").write_bytes(b"x"),
    "clips.jsonl": lambda folder: (folder / "clips.jsonl").write_bytes(b"x"),
    "receipts/ben-000.json": lambda folder: (folder / "receipts/ben-000.json").unlink(),
    "notes.txt": lambda folder: (folder / "notes.txt").write_text("mine"),
    "dataset.json": lambda folder: unfinish(folder),
}


def unfinish(folder: Path) -> None:
    dataset = replace(index.load_dataset(folder), complete=False)
    (folder / "dataset.json").write_bytes(index.dump_dataset(dataset))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_folder_that_is_not_whole_is_refused_with_its_problems(near: Path, far: Path, name: str) -> None:
    DAMAGE[name](near)
    with pytest.raises(VerificationError) as caught:
        to(near, far)
    assert [problem.file for problem in caught.value.problems] == [name]
    assert not far.exists()


def test_what_is_refused_leaves_no_trace(near: Path, far: Path) -> None:
    tar = near / "anna-000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")  # of the right size: found only when the far end has been opened
    with pytest.raises(VerificationError):
        to(near, far / "new" / "folder")
    assert not far.exists()
    far.mkdir()
    (far / "thesis.tex").write_text("theirs")
    with pytest.raises(ShareError, match=r"contains thesis\.tex but is not a shard folder"):
        to(near, far)
    assert [path.name for path in far.iterdir()] == ["thesis.tex"]


def test_a_file_that_changes_meanwhile_is_not_shared(near: Path, far: Path) -> None:
    tar = near / "anna-000.tar"
    file = LocalFile(name=tar.name, path=tar, bytes=tar.stat().st_size, sha256="0" * 64)
    with pytest.raises(StoreError, match=r"anna-000\.tar: found SHA-256 .*; it changed while being shared"):
        list(LocalStore(path=far).send([file]))
    assert list(far.iterdir()) == []


def test_two_shares_do_not_meet_at_one_place(small: Path, far: Path) -> None:
    far.mkdir()
    with (far / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FolderError, match=f"^{far}: .*choose another DEST="):
            to(small, far)
    to(small, far)


def test_a_file_in_the_place_of_a_folder_is_named(small: Path, far: Path) -> None:
    far.write_text("x")
    with pytest.raises(FolderError, match=f"^{far}: cannot be written"):
        to(small, far)


@pytest.mark.parametrize("place", [".", "inner", ".."])
def test_a_place_within_the_folder_or_around_it_is_refused(near: Path, place: str) -> None:
    with pytest.raises(ShareError, match="contains the other; choose another DEST="):
        to(near, near / place)


# --- one version over another ----------------------------------------------------------------------------------


def test_more_shards_are_added(small: Path, grown: Path, far: Path) -> None:
    to(small, far)
    assert to(grown, far).removed == ()
    assert without_mark(contents(far)) == contents(grown)


def test_what_is_gone_is_removed_only_when_asked(small: Path, grown: Path, far: Path) -> None:
    to(grown, far)
    before = contents(far)
    with pytest.raises(ShareError, match=r"no longer in .*: dora-000\.tar, receipts/dora-000\.json; PRUNE=1 removes"):
        to(small, far)
    assert contents(far) == before
    assert to(small, far, prune=True).removed == ("dora-000.tar", "receipts/dora-000.json")
    assert without_mark(contents(far)) == contents(small)
    assert verify(far, full=True) == []


def test_other_shards_are_not_shared_over(small: Path, far: Path, tmp_path: Path) -> None:
    to(small, far)
    before = contents(far)
    other = shareable(tmp_path / "other", features=("logmel",))
    expected = r"contains other shards \(identity\.config\.features: \['mfcc'\] -> \['logmel'\]\); choose another"
    with pytest.raises(ShareError, match=expected):
        to(other, far, prune=True)
    with pytest.raises(ShareError, match=r"contains other shards \(dataset: ravdess -> demo; identity"):
        to(licensed_as(other, "demo"), far)
    assert contents(far) == before


def test_a_copy_made_by_other_means_is_taken_over(small: Path, grown: Path, far: Path) -> None:
    shutil.copytree(small, far)
    assert to(small, far).sent == 1 + len(INDEX)  # SHARED.json is new
    assert to(grown, far).sent > 3
    assert without_mark(contents(far)) == contents(grown)


@pytest.mark.parametrize("name", ["thesis.tex", "README.md", "inner/x.tar"])
def test_a_place_that_holds_something_else_is_refused(small: Path, far: Path, name: str) -> None:
    (far / name).parent.mkdir(parents=True)
    (far / name).write_text("mine")
    with pytest.raises(ShareError, match=f"^{far}: contains {name} but is not a shard folder"):
        to(small, far, prune=True)
    assert contents(far) == {name: b"mine"}


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", "[" * 100_000, '{"dataset": 1, "identity": 2}'])
def test_a_place_whose_index_is_not_ours_is_refused(small: Path, far: Path, text: str) -> None:
    far.mkdir()
    (far / "dataset.json").write_text(text)
    with pytest.raises(ShareError, match=r"its dataset\.json is of another kind|contains other shards"):
        to(small, far, prune=True)
    assert contents(far) == {"dataset.json": text.encode()}


def test_files_of_others_are_left_alone(small: Path, grown: Path, far: Path) -> None:
    to(grown, far)
    (far / "LICENSE").write_text("theirs")
    shared = to(small, far, prune=True)
    assert shared.others == ("LICENSE",)
    assert (far / "LICENSE").read_text() == "theirs"


# --- killed ----------------------------------------------------------------------------------------------------

CALLS = ("fsync", "replace", "unlink")


def killed(at: int, *arguments: Any, **options: Any) -> bool:
    """Share in a process that dies at its nth change of the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            count = itertools.count(1)
            for name in CALLS:
                setattr(os, name, _dying(getattr(os, name), count, at))
            to(*arguments, **options)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _dying(call: Callable[..., Any], count: Iterator[int], at: int) -> Callable[..., Any]:
    def counted(*arguments: Any, **keywords: Any) -> Any:
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **keywords)

    return counted


def check_no_half_truth(far: Path, *versions: Path) -> None:
    """Where there is part of an index, all files that its version lists are there."""
    for name in INDEX:
        if (far / name).exists():
            version = next(v for v in versions if (v / name).read_bytes() == (far / name).read_bytes())
            for listed in index.load_checksums(version).keys() - {"dataset.json"}:
                assert (far / listed).read_bytes() == (version / listed).read_bytes()
    if (far / "SHA256SUMS").exists():
        assert verify(far, full=True) == []


@KILL_STEPS
def test_killed_anywhere_it_never_looks_whole_and_goes_on(small: Path, tmp_path: Path, step: int) -> None:
    for at in itertools.count(1, step):
        far = tmp_path / str(at)
        if not killed(at, small, far):
            break
        check_no_half_truth(far, small)
        to(small, far)
        assert without_mark(contents(far)) == contents(small)
        assert not list(far.rglob("*.part"))
        shutil.rmtree(far)
    assert at > 40


@KILL_STEPS
def test_killed_while_replacing_an_older_version(small: Path, grown: Path, tmp_path: Path, step: int) -> None:
    old = tmp_path / "old"
    to(grown, old)
    for at in itertools.count(1, step):
        far = Path(shutil.copytree(old, tmp_path / str(at)))
        if not killed(at, small, far, prune=True):
            break
        check_no_half_truth(far, small, grown)
        to(small, far, prune=True)
        assert without_mark(contents(far)) == contents(small)
        shutil.rmtree(far)
    assert at > 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_it_never_looks_whole_and_ends_alike(
    small: Path, far: Path, record_property: Callable[[str, object], None]
) -> None:
    def ended() -> None:
        assert without_mark(contents(far)) == contents(small)
        assert not list(far.rglob("*.part"))
        shutil.rmtree(far)

    shares = killed_at_random(forked(lambda: to(small, far)), lambda: check_no_half_truth(far, small), ended)
    record_property("seen", f"{KILLS} random kills of share in {shares} shares, all ended with the same bytes")


# --- terms -----------------------------------------------------------------------------------------------------


def test_what_may_not_be_passed_on_needs_the_words(near: Path, far: Path) -> None:
    licensed_as(near, "iemocap")
    for affirmed in (None, "yes", "the receiver holds the RAVDESS licence", AFFIRMED.upper()):
        with pytest.raises(
            ShareError, match=rf'^iemocap: its licence forbids .*; if the recipient has it, .*AFFIRM="{AFFIRMED}"$'
        ):
            to(near, far, affirmed=affirmed)
    assert not far.exists()
    to(near, far, affirmed=AFFIRMED)
    assert json.loads((far / "SHARED.json").read_bytes())["affirmed"] == AFFIRMED
    assert verify(far, full=True) == []


def test_every_share_needs_the_words(near: Path, far: Path) -> None:
    to(licensed_as(near, "iemocap"), far, affirmed=AFFIRMED)
    with pytest.raises(ShareError, match="AFFIRM="):
        to(near, far)


@pytest.mark.parametrize("corpus", ["iemocap", "folder"])
def test_what_may_not_be_passed_on_is_never_public(near: Path, far: Path, corpus: str) -> None:
    with pytest.raises(ShareError, match="so it cannot be public"):
        to(licensed_as(near, corpus), far, public=True, affirmed=AFFIRMED)
    assert not far.exists()


def test_recordings_of_ones_own_and_unknown_terms_need_words_too(near: Path, far: Path) -> None:
    words = "the receiver holds the licence of the recordings"
    with pytest.raises(ShareError, match=f'AFFIRM="{words}"$'):
        to(licensed_as(near, "folder"), far)
    dataset = replace(index.load_dataset(near), about={"redistributable": "yes", "title": "x\x1b[31m"})
    (near / "dataset.json").write_bytes(index.dump_dataset(dataset))
    with pytest.raises(ShareError, match=rf'no licence in the index.*AFFIRM="{words}"$'):
        to(near, far)


def test_nothing_is_affirmed_where_nothing_must_be(small: Path, far: Path) -> None:
    to(small, far, affirmed=AFFIRMED)
    assert json.loads((far / "SHARED.json").read_bytes())["affirmed"] is None


# --- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("ravdess", "CC BY-NC-SA 4.0 (name the source, nothing commercial, pass on under the same licence only;"),
        ("crema-d", "ODbL 1.0, contents DbCL 1.0 (name the source, pass on what is derived under the same licence"),
    ],
)
def test_terms_are_told_before_anything_is_shared(
    near: Path, far: Path, corpus: str, message: str, capsys: Capture
) -> None:
    licensed_as(near, corpus)
    assert main(["share", str(near), str(far)]) == 0
    licence, people, done = capsys.readouterr().out.splitlines()
    assert licence.startswith(f"licence of the recordings: {message}")
    assert "personal data" in people
    assert "report.html shows faces too" in people
    size = sum(map(len, contents(far).values())) / 1e6
    files = len(contents(far))
    assert done == f"sent {files} of {files} files ({size:.1f} MB); all {size:.1f} MB are at {far}, every hash checked"


def test_a_second_time_it_says_that_there_is_nothing_to_send(small: Path, far: Path, capsys: Capture) -> None:
    main(["share", str(small), str(far)])
    capsys.readouterr()
    assert main(["share", str(small), str(far)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("no files to send; all ")
    assert "sharing:" not in err


def test_bad_files_have_a_line_each_and_the_status_is_1(near: Path, far: Path, capsys: Capture) -> None:
    (near / "anna-000.tar").unlink()
    assert main(["share", str(near), str(far)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-2:] == [
        "BAD  anna-000.tar: found nothing, expected a file",
        f"{near}: build or fetch it again",
    ]
    assert err == f"error: {near}: not shared, because it differs from its index\n"


def test_an_unfinished_build_is_told_as_such(near: Path, far: Path, capsys: Capture) -> None:
    unfinish(near)
    (near / "SHA256SUMS").unlink()
    assert main(["share", str(near), str(far)]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "BAD  dataset.json: found an unfinished build, expected a finished one",
        f"{near}: run the same make shards to finish it",
    ]
    assert not far.exists()


def test_what_is_removed_and_left_is_said(small: Path, grown: Path, far: Path, capsys: Capture) -> None:
    to(grown, far)
    (far / "LICENSE").write_text("theirs")
    assert main(["share", str(small), str(far), "--prune"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "removed at the destination: dora-000.tar, receipts/dora-000.json",
        "unknown files at the destination, not changed: LICENSE",
    ]


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "https://host/x", "hf://owner/name", "hf://datasets/a", "s3://", "s3:///x", "hf://datasets/a/b/c"],
)
def test_other_addresses_are_refused(small: Path, address: str, capsys: Capture) -> None:
    assert main(["share", str(small), address]) == 2
    assert re.search("expected (a folder, s3://bucket/path or )?hf://datasets/owner/name", capsys.readouterr().err)


def test_progress_tells_files_and_bytes(small: Path, far: Path, capsys: Capture) -> None:
    main(["share", str(small), str(far)])
    size = sum(map(len, contents(far).values())) / 1e6
    assert f"sharing: {size:.1f}/{size:.1f} MB, sent {len(contents(far))} (" in capsys.readouterr().err


# --- a bucket --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A file system in a local S3 server, which has a bucket `lab`."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        store = s3fs.S3FileSystem(use_listings_cache=False)
        store.mkdir("lab")
        yield store
        server.stop()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """A place of the test's own."""
    return f"lab/{request.node.name.partition('[')[0]}/shards"


def objects(s3: Any, bucket: str) -> dict[str, bytes]:
    return {path.removeprefix(f"{bucket}/"): s3.cat_file(path) for path in s3.find(bucket)}


def test_bucket_holds_what_the_folder_holds(small: Path, s3: Any, bucket: str, tmp_path: Path) -> None:
    shared = to(small, f"s3://{bucket}")
    assert without_mark(objects(s3, bucket)) == contents(small)
    assert shared.sent == shared.files == len(contents(small)) + 1
    s3.get(f"{bucket}/", str(tmp_path / "fetched"), recursive=True)
    assert verify(tmp_path / "fetched", full=True) == []
    check_sums(tmp_path / "fetched")


def test_second_share_to_a_bucket_sends_nothing(small: Path, s3: Any, bucket: str) -> None:
    to(small, f"s3://{bucket}")
    before = {path: s3.info(path)["LastModified"] for path in s3.find(bucket)}
    assert to(small, f"s3://{bucket}/").sent == 0
    assert {path: s3.info(path)["LastModified"] for path in s3.find(bucket)} == before


def test_wrong_objects_are_sent_again(small: Path, s3: Any, bucket: str) -> None:
    """Found by the checksum that the server keeps, and, where it keeps none, by their bytes."""
    to(small, f"s3://{bucket}")
    for name, keeps in (("anna-000.tar", {"ChecksumAlgorithm": "SHA256"}), ("ben-000.tar", {})):
        data = (small / name).read_bytes()
        s3.pipe_file(f"{bucket}/{name}", data[:-1] + b"x", **keeps)
    s3.pipe_file(f"{bucket}/cleo-000.tar", (small / "cleo-000.tar").read_bytes())  # right, without a checksum
    assert to(small, f"s3://{bucket}").sent == 2 + len(INDEX)
    assert without_mark(objects(s3, bucket)) == contents(small)


def test_older_version_in_a_bucket_is_replaced(small: Path, grown: Path, s3: Any, bucket: str, capsys: Capture) -> None:
    to(grown, f"s3://{bucket}")
    with pytest.raises(ShareError, match="PRUNE=1"):
        to(small, f"s3://{bucket}")
    assert main(["share", str(small), f"s3://{bucket}", "--prune"]) == 0
    assert without_mark(objects(s3, bucket)) == contents(small)
    assert "earlier versions, if the bucket keeps them still contain them" in capsys.readouterr().out


@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 7, 13, 15)), 14])
def test_killed_while_sending_to_a_bucket(small: Path, s3: Any, bucket: str, at: int) -> None:
    """The process dies as it is about to send its nth object."""
    bucket = f"{bucket}-{at}"
    dying = f"""
import itertools, os, signal, sys
import s3fs
from manifests.__main__ import main
count, call = itertools.count(1), s3fs.S3FileSystem.call_s3
def dying(self, method, *arguments, **keywords):
    if method == "put_object" and next(count) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, method, *arguments, **keywords)
s3fs.S3FileSystem.call_s3 = dying
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", dying, "share", str(small), f"s3://{bucket}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = objects(s3, bucket)
    assert "SHA256SUMS" not in there
    if "dataset.json" in there:
        assert there.keys() >= contents(small).keys() - {"SHA256SUMS"}
    shared = to(small, f"s3://{bucket}")
    assert without_mark(objects(s3, bucket)) == contents(small)
    assert 0 < shared.sent <= shared.files


def test_a_bucket_that_is_not_there_is_named(small: Path, s3: Any) -> None:
    with pytest.raises(StoreError, match=r"^s3://nobodys/shards: The specified bucket does not exist"):
        to(small, "s3://nobodys/shards")


def test_a_server_that_is_not_there_is_named(small: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    command = [sys.executable, "-m", "manifests", "share", str(small), "s3://lab/x"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: s3://lab/x: 127.0.0.1:9 cannot be reached (Connection refused)"
    )


# --- a repository ----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    """A fake of the hub, which cannot be reached from tests; the library reads its address as it is imported."""
    pytest.importorskip("huggingface_hub")
    repository = Repository()
    with fake_hub.serving(repository) as address:
        for name, value in {
            "HF_ENDPOINT": address,
            "HF_TOKEN": "hf_none",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",  # the fake knows git's large files only
        }.items():
            monkeypatch.setenv(name, value)
        yield repository


def upload(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manifests", "share", str(folder), "hf://datasets/lab/shards", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def visible(repository: Repository) -> dict[str, bytes]:
    return without_mark({name: data for name, data in repository.files.items() if not name.startswith(".")})


def test_repository_is_private_and_holds_what_the_folder_holds(small: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    done = upload(small)
    assert done.returncode == 0, done.stderr
    assert hub.private
    assert visible(hub) == contents(small)
    assert hub.whole == [False, False, True, True]  # only once all the rest was committed
    assert set(hub.pointers) == {"anna-000.tar", "ben-000.tar", "cleo-000.tar"}


def test_second_share_to_a_repository_commits_nothing(small: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    upload(small)
    commits, uploads = len(hub.commits), hub.uploads
    assert "no files to send" in upload(small).stdout
    assert (len(hub.commits), hub.uploads) == (commits, uploads)


@pytest.mark.slow
def test_older_version_in_a_repository_is_replaced(small: Path, grown: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    upload(grown)
    uploads = hub.uploads
    assert "PRUNE=1" in upload(small).stderr
    assert "earlier commits of the repository still contain them" in upload(small, "--prune").stdout
    assert visible(hub) == contents(small)
    assert hub.uploads == uploads  # no shard was sent twice


def test_a_share_that_the_hub_ends_goes_on(small: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    hub.die_after = 1
    done = upload(small)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: hf://datasets/lab/shards: ")
    assert not {*INDEX} & hub.files.keys()
    hub.die_after, uploads = None, hub.uploads
    assert upload(small).returncode == 0
    assert visible(hub) == contents(small)
    assert hub.uploads == uploads


def test_what_arrives_damaged_is_noticed(small: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    hub.damage = lambda data: data[:-1] + b"x"
    done = upload(small)
    assert done.returncode == 2
    assert "-000.tar: the uploaded file does not have SHA-256" in done.stderr
    assert not {*INDEX} & hub.files.keys()


def test_a_public_repository_takes_only_what_is_meant_for_it(near: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    hub.private = False
    assert "the repository is public; make it private, or set PUBLIC=1" in upload(near).stderr
    licensed_as(near, "iemocap")
    assert "the repository is public" in upload(near, "--affirm", AFFIRMED).stderr
    assert "cannot be public" in upload(near, "--affirm", AFFIRMED, "--public").stderr
    assert hub.commits == []
    licensed_as(near, "crema-d")
    assert upload(near, "--public").returncode == 0
    assert visible(hub) == contents(near)


def test_public_makes_a_public_repository(small: Path, hub: Repository) -> None:
    """Against a fake of the hub: see `fake_hub`."""
    assert upload(small, "--public").returncode == 0
    assert hub.private is False


def test_a_hub_that_is_not_there_is_named(small: Path, hub: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = upload(small)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: hf://datasets/lab/shards: ")


@pytest.mark.slow
@pytest.mark.skipif(
    "MULTIMAE_DER_HUB_TEST" not in os.environ, reason="no MULTIMAE_DER_HUB_TEST=owner, nor a token for it"
)
def test_the_real_hub(small: Path) -> None:
    """With HF_TOKEN and MULTIMAE_DER_HUB_TEST=owner: a private repository that is shared to twice and deleted."""
    hub = pytest.importorskip("huggingface_hub")
    name = f"{os.environ['MULTIMAE_DER_HUB_TEST']}/shards-{hashlib.sha256(os.urandom(8)).hexdigest()[:12]}"
    try:
        assert to(small, f"hf://datasets/{name}").sent == len(contents(small)) + 1
        assert to(small, f"hf://datasets/{name}").sent == 0
        assert hub.repo_info(name, repo_type="dataset").private
    finally:
        hub.delete_repo(name, repo_type="dataset", missing_ok=True)

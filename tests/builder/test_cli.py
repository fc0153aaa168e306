"""`python -m builder`: what it says, what it ends with, and how it ends when it is interrupted or killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

import pytest

from builder import engines, run
from builder.__main__ import main
from builder.config import BuildConfig
from builder.run import BuildJob, build
from manifests import index
from manifests.errors import install_command, interpreter
from manifests.files import exclusive_lock
from manifests.text import pluralize
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories import corpora
from tests.factories.face_clips import face_clip, face_corpus
from tests.fakes import clip_builder
from tests.fakes.build_process import FAKE, HERE, REAL, Running, command, contents

#: For 60 clips on a machine that does much else.
WHOLE_BUILD_SECONDS = 900.0
STOPPED = "interrupted; run the same command to continue\n"
#: What Python raises for a package that is not there.
NOT_INSTALLED = 'ModuleNotFoundError("No module named {0!r}", name="{0}")'
INSTALL = f"is not installed; {install_command('builder')}, then pip install --no-deps mediapipe"
SPEAKERS = {
    "A": {"a1": "ok", "a2": "ok"},
    "B": {"b1": "ok", "b2": "ok"},
    "C": {"c1": "ok", "c2": "ok"},
}


# --- arguments and exit codes, without processes ---------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    monkeypatch.setattr("builder.report.write_report", lambda folder: folder / "report.html")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts to build, fails."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("nothing is to be built")

    monkeypatch.setattr(engines, "ClipPool", refuse)


ALL_CORPORA = "ravdess, crema-d, iemocap, mead, voxceleb2, folder"
ONE_OR_MORE = "expected one or more of mfcc, logmel, stft, each once (make: FEATURE=)"


@pytest.mark.parametrize(
    ("arguments", "lists"),
    [
        (["shards", "--dataset", "voxceleb"], f"unknown corpus 'voxceleb'; valid are {ALL_CORPORA}"),
        (["plan", "--dataset", "voxceleb"], f"unknown corpus 'voxceleb'; valid are {ALL_CORPORA}"),
        (["shards", "--feature", "lpc"], "feature: found 'lpc', expected one of mfcc, logmel, stft"),
        (["shards", "--feature", "mfcc,mfcc"], f"features: found mfcc, mfcc, {ONE_OR_MORE}\n"),
        (["shards", "--feature", ""], f"features: found none, {ONE_OR_MORE}\n"),
        (["plan", "--timeline", "random"], "timeline: found 'random', expected one of uniform, fixed"),
        (["plan", "--align", "eyes"], "align: found 'eyes', expected one of frame, clip, none"),
        (["plan", "--decoder", "opencv"], "decoder: found 'opencv', expected one of pyav, ffmpeg"),
        (
            ["plan", "--option", "split.csv"],
            "option: found 'split.csv', expected csv=split.csv (make: OPTION=csv=split.csv)",
        ),
        (["plan", "--option", "labels=voted"], "folder: unknown option 'labels'; valid are: csv"),
        (["plan", "--option", "labels"], "folder: unknown option 'labels'; valid are: csv"),
        (["plan", "--step", "0"], "argument --step: found '0', expected an integer of at least 1; "),
        (["shards", "--workers", "many"], "argument --workers: found 'many', expected an integer of at least 1; "),
        (
            ["shards", "--clip-seconds", "nan"],
            "argument --clip-seconds: found 'nan', expected a positive number; ",
        ),
        (["shard"], "argument COMMAND: invalid choice: 'shard' (choose from 'shards', 'plan', 'report', "),
        (["plan", "--speed", "9"], "unrecognized arguments: --speed 9; "),
        ([], "the following arguments are required: COMMAND; "),
        (["features"], "the following arguments are required: SHARDS, --feature; "),
        (["features", "somewhere", "--feature", ""], f"features: found none, {ONE_OR_MORE}\n"),
        (["corpus", "--connections", "0"], "argument --connections: found '0', expected an integer of at least 1; "),
        (["corpus", "--dataset", "voxceleb"], f"unknown corpus 'voxceleb'; valid are {ALL_CORPORA}"),
    ],
)
def test_what_is_not_valid_is_one_line_that_lists_what_is(
    tmp_path: Path, idle: None, capsys: pytest.CaptureFixture[str], arguments: list[str], lists: str
) -> None:
    corpora.folder(tmp_path / "data")
    where = ["--dataset", "folder", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    of_builds = arguments[:1] in (["shards"], ["plan"])
    assert status(arguments[:1] + where * of_builds + arguments[1:]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {lists}")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_doctor_complains_in_one_line() -> None:
    command = [sys.executable, "-m", "builder.doctor", "--speed"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=60)
    complaint = f"error: unrecognized arguments: --speed; see {interpreter()} -m builder.doctor --help\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


def status(arguments: Sequence[str]) -> int:
    """Exit status, whether argparse exits or a command returns."""
    try:
        return main(arguments)
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)
        return exit_.code


def test_a_traceback_only_with_debug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command("plan", tmp_path / "nowhere")
    assert main(arguments) == 2
    output = capsys.readouterr().err
    assert output == f"error: {tmp_path / 'nowhere'}: no such folder; set the corpus folder with DATA=\n"
    with pytest.raises(ValueError, match="no such folder"):
        main([*arguments, "--debug"])


def test_two_clips_with_one_id_stop_the_build_naming_both(
    tmp_path: Path, idle: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpora.folder(tmp_path / "data")
    table = data / "clips.csv"
    table.write_text(table.read_text() + "a.mp4,anna,joy,,hello\nA.mp4,anna,joy,,hello\n", encoding="utf-8")
    for name in ("a.mp4", "A.mp4"):
        (data / name).write_bytes(b"placeholder")
    assert main(command("shards", data, tmp_path / "out")) == 2
    output = capsys.readouterr().err
    assert re.fullmatch(r"error: \S*clips.csv:8 and \S*clips.csv:9: the same clip id .*\n", output)
    assert not (tmp_path / "out").exists()


def test_summary_of_a_build(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    data = clip_builder.corpus(tmp_path / "data", SPEAKERS)
    out = tmp_path / "out"
    assert main(command("shards", data, out)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "built 6   dropped 0",
        f"shards    {out} (3 shards, 0 of them built before)",
        "folds     loso",
        "classes  clips  speakers",
        "  happy      3         3",
        "  sad        3         3",
        f"report    {out}/report.html",
    ]
    assert main(command("shards", data, out)) == 0
    assert f"shards    {out} (3 shards, 3 of them built before)" in capsys.readouterr().out


def test_one_clip_is_no_clips_and_has_no_folds(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = clip_builder.corpus(tmp_path / "data", {"A": {"a1": "ok"}}), tmp_path / "out"
    assert main(command("shards", data, out)) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:3] == [
        f"shards    {out} (1 shard, 0 of them built before)",
        "folds     none fits the built speakers: data: leave-one-speaker-out found speaker A; expected at least "
        "three speakers of different recordings, one each to test, to validate and to train on",
    ]
    assert captured.err.startswith("building clips: 1/1, built 1 (")
    assert main(command("plan", data, out)) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "data: 1 clip, 1 speaker, 1 shard",
        f"into      {out}: 1 of 1 shard already built",
    ]


def test_plan_knows_what_is_in_the_folder(tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = clip_builder.corpus(tmp_path / "data", SPEAKERS), tmp_path / "out"

    def planned() -> list[str]:
        capsys.readouterr()
        assert main(command("plan", data, out)) == 0
        return capsys.readouterr().out.splitlines()

    assert planned()[1] == f"into      {out}: 0 of 3 shards already built"
    assert not out.exists()
    main(command("shards", data, out))
    assert planned()[:2] == [
        "data: 6 clips, 3 speakers, 3 shards",
        f"into      {out}: 3 of 3 shards already built",
    ]
    (out / "C-000.tar").unlink()
    assert planned()[1] == f"into      {out}: 2 of 3 shards already built"
    main(command("shards", data, out))
    withdraw(out, ["B"])
    before = contents(out)
    assert planned()[:3] == [
        "data: 4 clips, 2 speakers, 2 shards",
        "  left out because withdrawn from this folder: B",
        f"into      {out}: 2 of 2 shards already built",
    ]
    assert main(command("plan", data, out, "--align", "clip")) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "data: 6 clips, 3 speakers, 3 shards",
        f"into      {out}: was built differently (config.align: frame -> clip); choose another OUT=",
    ]
    assert contents(out) == before


def test_what_cannot_be_written_is_named_as_the_folder_was(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = clip_builder.corpus(tmp_path / "data", SPEAKERS)
    monkeypatch.chdir(tmp_path)
    Path("out/B-000.tar").mkdir(parents=True)  # in the way
    assert main(command("shards", data, Path("out"))) == 2
    assert re.search(r"^error: out/\S*B-000.tar\S*: Is a directory$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(
    "features",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("mfcc", "logmel")), "mfcc stft"],
)
def test_plan_estimates_the_size(
    tmp_path: Path, real_clip: Callable[[str], Path], capsys: pytest.CaptureFixture[str], features: str
) -> None:
    data = real_clip("crema-d/VideoFlash/1001_DFA_ANG_XX.flv").parents[1]
    arguments = ["--dataset", "crema-d", "--data", str(data), "--out", str(tmp_path / "out"), "--feature", features]
    assert main(["plan", *arguments]) == 0
    output = capsys.readouterr().out
    estimated = float(re.search(r"^size      about (\d+) MB in total$", output, re.MULTILINE)[1])  # type: ignore[index]
    assert "\ntime      about 1 minute of one core, estimated from 4 recordings\n" in output
    assert main(["shards", *arguments, "--workers", "1"]) == 0
    built = sum(shard.bytes for shard in index.load_dataset(tmp_path / "out").shards)
    assert estimated == pytest.approx(built / 1e6, rel=0.3)


@pytest.mark.parametrize(
    ("orders", "failures"),
    [
        ({"b1": "drop no_face"}, "1 of 6 clips dropped, more than 2%"),
        (
            {"c1": "drop no_face", "c2": "drop truncated"},
            "2 of 6 clips dropped, more than 2%; no clip was built of speaker C",
        ),
    ],
)
def test_drops_fail_unless_they_are_allowed(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], orders: dict[str, str], failures: str
) -> None:
    data = clip_builder.corpus(tmp_path / "data", SPEAKERS)
    for name, order in orders.items():
        (data / f"{name}.mp4").write_text(order)
    out = tmp_path / "out"
    assert main(command("shards", data, out)) == 1
    captured = capsys.readouterr()
    assert f"error: {failures}. The shards are kept and can be used as they are; ALLOW_DROPS=1 only" in captured.err
    examples = [line.split()[1] for line in captured.out.splitlines() if line.startswith("example ")]
    assert examples == [f"{name}:" for name in orders]
    assert f"built {6 - len(orders)}   dropped {len(orders)}\n" in captured.out
    assert "  dropped 1: no_face, a face was found in fewer than half of the frames\n" in captured.out
    assert verify(out, full=True) == []
    kept = contents(out)
    assert main(command("shards", data, out, "--allow-drops")) == 0
    assert contents(out) == kept
    assert "error" not in capsys.readouterr().err


def test_another_configuration_is_refused_with_the_difference(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = clip_builder.corpus(tmp_path / "data", SPEAKERS), tmp_path / "out"
    main(command("shards", data, out))
    before = contents(out)
    capsys.readouterr()
    assert main(command("shards", data, out, "--align", "clip", "--timeline", "fixed")) == 2
    assert capsys.readouterr().err == (
        f"error: {out}: was built differently (config.align: frame -> clip; config.timeline: uniform -> fixed); "
        "choose another OUT=\n"
    )
    assert contents(out) == before


def test_plan_lists_what_is_absent_defective_and_odd_and_touches_nothing(
    tmp_path: Path, idle: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("no recording is to be opened")

    for reader in ("builder.media.decode", "builder.clip_result.file_sha256", "manifests.index.file_sha256"):
        monkeypatch.setattr(reader, refuse)
    clips = [*corpora.CREMA_D_CLIPS, "1076_MTI_SAD_XX", "1013_WSI_DIS_XX"]
    data = corpora.crema_d(tmp_path / "data", clips, sounds=False)
    arguments = ["plan", "--dataset", "crema-d", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    short = capsys.readouterr().out
    assert re.match(r"CREMA-D.*: 47 clips of 7442 in the complete corpus, 5 speakers, 5 shards\n", short)
    assert re.search(r"^missing from the corpus: \d+\n  VideoFlash/", short, re.MULTILINE)
    assert "not needed" not in short
    corpora.put(data / "AudioWAV" / "1001_DFA_ANG_XX.wav")
    main(arguments)
    apart = r"^missing, but not needed \(make corpus ALL=1\): \d+\n  AudioWAV/"
    assert re.search(apart, capsys.readouterr().out, re.MULTILINE)
    shutil.rmtree(data / "AudioWAV")
    assert re.search(r"^  \.\.\. and \d+ more \(ALL=1 lists them\)$", short, re.MULTILINE)
    assert re.search(r"^known defects, will be dropped: 1\n  1076_MTI_SAD_XX: ", short, re.MULTILINE)
    assert re.search(r"^known oddities, will be flagged: \d+\n  ", short, re.MULTILINE)
    assert main([*arguments, "--all"]) == 0
    every = capsys.readouterr().out
    absent = int(re.search(r"missing from the corpus: (\d+)", every)[1])  # type: ignore[index]
    assert absent > 7000
    assert every.count("\n") >= absent
    assert not (tmp_path / "out").exists()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    data = corpora.crema_d(tmp_path / "data", sounds=False)
    plan = [sys.executable, *REAL, "plan", "--dataset", "crema-d", "--data", str(data), "--all"]
    process = subprocess.Popen(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate(timeout=60)[1] == b""


@pytest.mark.parametrize(
    ("package", "arguments", "problem", "output"),
    [
        (
            "soxr",
            ["plan"],
            "ImportError('libsoxr.so.0: cannot open shared object file')",
            "libsoxr.so.0: cannot open shared object file; run make doctor",
        ),
        ("soxr", ["plan"], NOT_INSTALLED.format("soxr"), f"soxr {INSTALL}"),
        (
            "webdataset",
            ["features", "shards", "--feature", "mfcc"],
            NOT_INSTALLED.format("webdataset"),
            f"webdataset {INSTALL}",
        ),
    ],
)
def test_a_backend_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, package: str, arguments: list[str], problem: str, output: str
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise {problem}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(HERE.parents[1])])}
    program = [sys.executable, *REAL, *arguments]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {output}\n"


# --- users without a home --------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["--data", "--out"])
def test_the_home_of_nobody_is_one_line(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--dataset", "folder", setting, "~no-such-user/x"])
    assert ended.value.code == 2
    expected = "found '~no-such-user/x', expected a path: its home folder is unknown"
    assert (
        capsys.readouterr().err
        == f"error: argument {setting}: {expected}; see {interpreter()} -m builder plan --help\n"
    )


@pytest.mark.slow
def test_a_user_without_an_entry_in_the_password_file(tmp_path: Path) -> None:
    """As in containers; librosa looks for a home folder when it is imported."""
    data = face_corpus(tmp_path / "data", ["anna"], 1)
    stranger = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if subprocess.run([*stranger, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    command = [*stranger, sys.executable, *REAL, "shards", "--dataset", "folder", "--data", str(data), "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "XDG_CACHE_HOME")}
    settings = ("--feature", "logmel", "--out", str(tmp_path / "out"))
    done = subprocess.run([*command, *settings], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("built 1 ")


# --- interrupted and killed ------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return clip_builder.corpus(tmp_path / "data", SPEAKERS)


@pytest.fixture
def calls(data: Path) -> Iterator[TextIO]:
    """Reads what clips write whose emotion is `call` or `hang`."""
    os.mkfifo(data / "caller")
    with os.fdopen(os.open(data / "caller", os.O_RDWR)) as lines:
        yield lines


def resumed(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Let the clips that hung be built: what the resumed build made, and what an undisturbed one makes."""
    for video in data.glob("*.mp4"):
        video.write_text("ok")
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    config = BuildConfig(dataset="folder")
    build(BuildJob(config=config, name=data.name, data=data, out=out))
    build(BuildJob(config=config, name=data.name, data=data, out=out.with_name("undisturbed")))
    return contents(out), contents(out.with_name("undisturbed"))


@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGKILL, False),
        (signal.SIGINT, True),
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
    ],
)
def test_an_ended_build_leaves_no_process_and_goes_on(
    data: Path, calls: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, group: bool
) -> None:
    """Both workers hang, each with a child of its own, when the signal comes."""
    for name in ("b1", "b2"):
        (data / f"{name}.mp4").write_text("hang")
    out = tmp_path / "out"
    build = Running(FAKE, data, out, "--workers", "2")
    for _ in range(2):
        calls.readline()
    code, output, complained = build.end(number, group=group)
    assert output == ""
    if number is signal.SIGINT:
        assert (code, complained) == (130, STOPPED)
    else:
        assert (code, complained) == (-number, "")
    assert json_complete(out) is False
    found, expected = resumed(data, out, monkeypatch)
    assert found == expected


def test_ctrl_c_ends_a_build_on_a_local_cluster_at_once(data: Path, calls: TextIO, tmp_path: Path) -> None:
    """Closing a cluster in the usual way waits for the workers' clips in progress."""
    (data / "b1.mp4").write_text("hang")
    build = Running(FAKE, data, tmp_path / "out", "--workers", "2", "--engine", "dask")
    calls.readline()
    pressed = time.monotonic()
    code, output, complained = build.end(signal.SIGINT)
    assert (code, output, complained.splitlines()[-1]) == (130, "", STOPPED.strip())
    assert "Traceback" not in complained
    assert time.monotonic() - pressed < 4  # the time that distributed gives a worker


def json_complete(out: Path) -> bool:
    return index.load_dataset(out).complete


def test_ctrl_c_while_workers_start(data: Path, tmp_path: Path) -> None:
    build = Running(FAKE, data, tmp_path / "out", "--workers", "2")
    while build.process.poll() is None and len(clip_builder.children(build.process.pid)) < 3:
        time.sleep(0.01)  # until there are two workers and multiprocessing's helper
    code, output, complained = build.end(signal.SIGINT)
    assert (code, output, complained) == (130, "", STOPPED)


def test_ctrl_c_while_the_backends_load(data: Path, tmp_path: Path) -> None:
    build = Running(REAL, data, tmp_path / "out")
    maps = Path(f"/proc/{build.process.pid}/maps")
    while build.process.poll() is None and "numpy" not in maps.read_text():
        time.sleep(0.01)
    code, output, complained = build.end(signal.SIGINT)
    assert (code, output, complained) == (130, "", "interrupted before anything was started\n")


def test_a_second_build_is_refused_until_the_first_has_ended(data: Path, calls: TextIO, tmp_path: Path) -> None:
    (data / "b1.mp4").write_text("once hang")
    first = Running(FAKE, data, tmp_path / "out", "--workers", "1")
    calls.readline()
    second = Running(FAKE, data, tmp_path / "out")
    code, output, complained = second.end()
    owner = f"process {first.process.pid} on {os.uname().nodename}"
    assert (code, output) == (2, "")
    assert complained == f"error: {tmp_path / 'out'}: locked by {owner}; wait for it, or choose another OUT=\n"
    first.end(signal.SIGKILL)
    with exclusive_lock(tmp_path / "out"):
        pass


@pytest.mark.slow
def test_a_crash_and_a_hang_in_one_build(data: Path, tmp_path: Path) -> None:
    (data / "b1.mp4").write_text("crash")
    (data / "c1.mp4").write_text("hang")
    arguments = ("--workers", "2", "--clip-seconds", "2")
    code, output, complained = Running(FAKE, data, tmp_path / "out", *arguments).end()
    assert code == 1
    assert "built 4   dropped 2\n  dropped 1: timeout, " in output
    assert "  dropped 1: worker_died, " in output
    assert "error: 2 of 6 clips dropped, more than 2%. The shards are kept; ALLOW_DROPS=1 accepts them" in complained
    assert "Traceback" not in complained
    assert verify(tmp_path / "out", full=True) == []


# --- disks that are full or not writable -----------------------------------------------------------------------

MOUNTS = """
set -e
mkdir full readonly
mount -t tmpfs -o size=750k none full
mount --bind readonly readonly
mount -o remount,ro,bind readonly
python=$1; shift
"$python" "$@" --out readonly/shards && exit 90 || test $? = 2
"$python" "$@" --out readonly && exit 91 || test $? = 2
"$python" "$@" --out full && exit 92 || test $? = 2
find full -type f > left
mount -o remount,size=10m full
"$python" "$@" --out full
"$python" -m manifests verify full
cp -r full resumed
"""


@pytest.mark.slow
def test_real_disks_that_are_full_or_read_only(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount file systems (unshare -m)")
    for video in data.glob("*.mp4"):
        video.write_text("big 300")  # 200 kB each, 400 kB a shard
    build = [sys.executable, *FAKE, *command("shards", data, None, "--workers", "1")]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNTS, "sh", *build],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    readonly = r"cannot be written \(Read-only file system\); choose another folder with OUT="
    assert re.fullmatch(rf"error: readonly/shards: {readonly}", errors[0])
    assert re.fullmatch(rf"error: readonly: {readonly}", errors[1])
    assert re.fullmatch(r"error: full/\S+: disk full, 0 MB free; make room and run the same command again", errors[2])
    assert len(errors) == 3
    left = (tmp_path / "left").read_text().split()
    assert not [name for name in left if name.endswith(".part")]
    assert len([name for name in left if name.endswith(".tar")]) < 3
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    run.build(BuildJob(config=BuildConfig(dataset="folder"), name="data", data=data, out=tmp_path / "undisturbed"))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "undisturbed")


# --- with faces ------------------------------------------------------------------------------------------------


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = contents(folder)
    yield
    assert contents(folder) == before


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A corpus of faces, its shards by two workers, and what the build printed."""
    root = tmp_path_factory.mktemp("faces")
    data = face_corpus(root / "data", ["anna", "ben", "zoe"], 2)
    (root / "data" / "cut.mp4").write_bytes(face_clip(root / "whole.mp4").read_bytes()[:-4000])
    table = data / "clips.csv"
    table.write_text(table.read_text() + "cut.mp4,zoe,sad\n", encoding="utf-8")
    code, output, complained = Running(REAL, data, root / "out", "--workers", "2", "--allow-drops").end()
    assert code == 0, complained
    return data, root / "out", output


def test_a_build_of_faces(faces: tuple[Path, Path, str]) -> None:
    _, out, output = faces
    assert re.match(r"built 6   dropped 1\n  dropped 1: (decode_error|truncated|unreadable), ", output)
    assert f"\nshards    {out} (3 shards, 0 of them built before)\nfolds     loso\n" in output
    assert output.endswith(f"report    {out}/report.html\n")
    assert (out / "report.html").is_file()
    assert verify(out, full=True) == []


@pytest.mark.slow
def test_one_worker_makes_the_same_bytes(faces: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, out, _ = faces
    assert Running(REAL, data, tmp_path / "out", "--workers", "1", "--allow-drops").end()[0] == 0
    assert contents(tmp_path / "out") == contents(out)
    assert (tmp_path / "out" / "report.html").read_bytes() == (out / "report.html").read_bytes()


@pytest.mark.slow
def test_three_workers_make_the_same_bytes_from_another_place(faces: tuple[Path, Path, str], tmp_path: Path) -> None:
    data, out, _ = faces
    shutil.copytree(data, tmp_path / "moved")
    assert Running(REAL, tmp_path / "moved", tmp_path / "out", "--workers", "3", "--allow-drops").end()[0] == 0
    assert contents(tmp_path / "out") == contents(out)


def test_the_report_can_be_made_again(faces: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = faces
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    with unchanged(out):
        assert main(["report", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report    {out}/report.html\n"
    assert (out / "report.html").read_bytes() == before


def test_a_report_of_no_build_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert re.fullmatch(rf"error: {tmp_path}/dataset.json: missing.*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_too_little_memory_drops_clips_and_not_the_machine(tmp_path: Path) -> None:
    from builder.clip import ClipBuilder
    from builder.pool import ClipPool
    from builder.worker import Limits

    data = face_corpus(tmp_path / "data", ["anna"], 2)
    planned = run.plan_build(BuildConfig(dataset="folder"), data)
    sources = planned.shards[0].sources
    limits = Limits(memory_bytes=200 << 20)  # less than the face models have already
    with ClipPool(BuildConfig(dataset="folder"), planned.root, 1, limits, ClipBuilder) as pool:
        assert [clip.row.reason for clip in pool.map(sources)] == ["worker_died"] * 2


@pytest.mark.slow
def test_real_clips_of_crema_d(real_clip: Callable[[str], Path], tmp_path: Path) -> None:
    data = real_clip("crema-d/VideoFlash/1001_DFA_ANG_XX.flv").parents[1]
    made = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        arguments = [sys.executable, *REAL, "shards", "--dataset", "crema-d", "--data", str(data), "--out", str(out)]
        done = subprocess.run([*arguments, "--workers", workers], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert re.match(r"built \d+(?: \(\d+ of them flagged\))?   dropped 0\n", done.stdout)
        made.append(contents(out))
    assert made[0] == made[1]
    assert len(list(index.load_rows(tmp_path / "1"))) == 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("frames", ["16", "all"])
def test_twenty_kills_at_random_moments_end_with_the_same_bytes(
    tmp_path: Path, frames: str, record_property: Callable[[str, object], None]
) -> None:
    """Real recordings, real workers, the whole process group or the parent alone, as chance has it."""
    data = face_corpus(tmp_path / "data", [f"speaker{i}" for i in range(10)], 6)
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    build = Running(REAL, data, undisturbed, "--workers", "1", "--frames", frames)
    wait_for_news(build.process, undisturbed)
    began = time.monotonic()
    assert build.end(within_seconds=WHOLE_BUILD_SECONDS)[0] == 0
    seconds = (time.monotonic() - began) / 4  # of two shards and a half by one worker, five by two
    chance = random.Random(1)
    kills = in_the_midst = 0
    builds = 1
    while kills < 20:
        build = Running(REAL, data, out, "--workers", "2", "--frames", frames)
        wait_for_news(build.process, out)
        try:
            build.process.wait(timeout=chance.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            build.end(signal.SIGKILL, group=chance.random() < 0.5)
            kills += 1
            in_the_midst += 0 < len(list(out.glob("receipts/*.json"))) < 10
        else:
            assert build.end()[0] == 0
            assert contents(out) == contents(undisturbed)
            shutil.rmtree(out)  # it got through: start over
            builds += 1
    assert in_the_midst >= 5  # the others came before the first shard, or while the report was written
    last = Running(REAL, data, out, "--workers", "2", "--frames", frames)
    assert last.end(within_seconds=WHOLE_BUILD_SECONDS)[0] == 0
    assert contents(out) == contents(undisturbed)
    assert (out / "report.html").read_bytes() == (undisturbed / "report.html").read_bytes()
    record_property(
        "seen",
        f"FRAMES={frames}: {kills} random kills of 2 workers in {pluralize(builds, 'build')}, {in_the_midst} of them "
        "between the first and the last of 10 shards, ended with the bytes of 1 worker",
    )


def wait_for_news(build: subprocess.Popen[str], out: Path) -> None:
    """Until another shard is begun: before that, a build only loads what it needs."""
    before = set(out.glob("*"))
    while build.poll() is None and not {path for path in out.glob("*.tar*") if path not in before}:
        time.sleep(0.02)

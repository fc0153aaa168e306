"""Spectrograms made again of the shards' own sound: the bytes of a build from the recordings, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from builder import engines, features
from builder.__main__ import main
from builder.config import BuildConfig, ConfigError
from builder.datasets.demo import make_demo
from builder.engines import LocalPool
from builder.features import FeaturesJob, make_features
from builder.run import BuildJob, build
from manifests import index, schema
from manifests.files import FolderError, exclusive_lock
from manifests.index import ManifestError
from manifests.verify import verify
from tests.builder import test_run
from tests.factories import media as factory
from tests.factories.builder_shards import resign, shard_folder
from tests.factories.face_clips import face_clip
from tests.fakes import clip_builder
from tests.kills import KILL_STEPS

HERE = Path(__file__).parent
Make = Callable[..., Path]
#: Of a speaker of whom nothing is built; it is removed at once.
EMPTY_TAR = bytes(10240)


def corpus(root: Path) -> Path:
    """Recordings of every kind that has a clock of its own, one that is left out, and a speaker of whom all is."""
    root.mkdir()
    face_clip(root / "plain.mp4", 0)
    face_clip(root / "mute.mp4", 1, sound=False)
    samples = factory.tone(330, 0.7, schema.SAMPLE_RATE_HZ)
    with wave.open(str(root / "mute.wav"), "wb") as file:
        file.setparams((1, 2, schema.SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    frames = [np.roll(frame, 3, axis=0) for frame in _portraits()]
    late = factory.steady(frames, "flv", rate=Fraction(25), start_seconds=0.08)
    sound = factory.mono(factory.tone(500, 0.9, 44_100), rate_hz=44_100, start_seconds=0.031, codec="libmp3lame")
    late = replace(late, options={"bf": "0"})
    factory.write(root / "late.flv", late, sound, container="flv")
    factory.write(root / "empty.mp4", factory.steady(factory.stamps(25), "mp4"), factory.mono(factory.tone(300, 0.8)))
    rows = [
        "clip,speaker,emotion,sound,start,end",
        "plain.mp4,anna,joy,,,",
        "late.flv,anna,fear,,,",
        "mute.mp4,ben,joy,mute.wav,,",
        "empty.mp4,ben,fear,,,",
        "empty.mp4,zoe,joy,,0.0,0.5",
    ]
    (root / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def _portraits() -> list[factory.Frames]:
    import skimage.data

    portrait = skimage.data.astronaut()[:240, 100:340]
    return [np.roll(portrait, i % 5, axis=1) for i in range(25)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`built("mfcc", "logmel")` -> a build of the corpus with these features, made once."""
    root = tmp_path_factory.mktemp("again")
    data = corpus(root / "data")

    @cache
    def make(*chosen: str, timeline: str = "uniform") -> Path:
        out = root / "-".join((*chosen, timeline))
        config = BuildConfig(dataset="folder", features=chosen, timeline=timeline, step_frames=1)
        build(BuildJob(config=config, data=data, out=out, engine=LocalPool(workers=1)))
        return out

    return make


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in (".lock", "report.html")}


def tars(folder: Path) -> dict[str, str]:
    return {path.name: index.file_sha256(path) for path in sorted(folder.glob("*.tar"))}


def members(folder: Path) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Clip id -> its members, read where the receipts say."""
    for path in sorted((folder / index.RECEIPTS).iterdir()):
        receipt = index.load_receipt(path)
        for clip_id, places in receipt.members.items():
            tar = (folder / receipt.shard).read_bytes()
            yield clip_id, {suffix: tar[start : start + size] for suffix, (start, size) in places.items()}


def job(shards: Path, out: Path, *chosen: str, workers: int = 1) -> FeaturesJob:
    return FeaturesJob(shards=shards, out=out, features=chosen, engine=LocalPool(workers=workers))


# --- the bytes of a build --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("mfcc",), ("logmel",)),
        (("mfcc",), ("stft", "mfcc")),
        pytest.param(("stft", "mfcc"), ("mfcc",), marks=pytest.mark.slow),
        pytest.param(("logmel",), ("mfcc",), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_all_that_tells_of_clips_is_as_in_a_build_from_the_recordings(
    built: Make, tmp_path: Path, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    made = make_features(job(built(*before), tmp_path / "out", *after))
    assert verify(tmp_path / "out", full=True) == []
    assert made.other_versions == ()
    found, expected = contents(tmp_path / "out"), contents(built(*after))
    assert found.keys() == expected.keys()
    differ = {name for name in expected if found[name] != expected[name]}
    receipts = {name for name in expected if name.startswith("receipts/")}
    assert differ == {"dataset.json", "SHA256SUMS"} | receipts
    assert len(tars(tmp_path / "out")) == 2


def test_the_index_differs_from_a_builds_in_where_spectrograms_came_from_alone(built: Make, tmp_path: Path) -> None:
    make_features(job(built("mfcc"), tmp_path / "out", "logmel"))
    found, expected = index.load_dataset(tmp_path / "out"), index.load_dataset(built("logmel"))
    sums = {shard.name: shard.receipt_sha256 for shard in found.shards}
    came_from = {
        "sound": "audio.flac of shards",
        "index_sha256": index.file_sha256(built("mfcc") / "dataset.json"),
        "versions": {
            name: version for name, version in expected.identity["versions"].items() if name in features.VERSIONED
        },
    }
    assert found == replace(
        expected,
        identity={**expected.identity, "spectrograms_from": came_from},
        shards=tuple(replace(shard, receipt_sha256=sums[shard.name]) for shard in expected.shards),
    )
    for path in sorted((tmp_path / "out" / index.RECEIPTS).iterdir()):
        receipt, of_build = index.load_receipt(path), index.load_receipt(built("logmel") / index.RECEIPTS / path.name)
        assert receipt.plan != of_build.plan
        assert replace(receipt, plan=of_build.plan) == of_build


@pytest.mark.slow
def test_a_fixed_timeline(built: Make, tmp_path: Path) -> None:
    make_features(job(built("mfcc", timeline="fixed"), tmp_path / "out", "stft"))
    assert tars(tmp_path / "out") == tars(built("stft", timeline="fixed"))


@pytest.mark.slow
def test_real_clips(real_clip: Callable[[str], Path], tmp_path: Path) -> None:
    data = real_clip("crema-d/VideoFlash/1001_DFA_ANG_XX.flv").parents[1]
    for chosen in (("mfcc",), ("mfcc", "logmel", "stft")):
        config = BuildConfig(dataset="crema-d", features=chosen)
        build(BuildJob(config=config, data=data, out=tmp_path / chosen[-1], engine=LocalPool(workers=2)))
    make_features(job(tmp_path / "mfcc", tmp_path / "out", "mfcc", "logmel", "stft"))
    assert len(list(members(tmp_path / "out"))) == 4
    assert tars(tmp_path / "out") == tars(tmp_path / "stft")


@pytest.mark.slow
def test_the_demo_corpus(tmp_path: Path) -> None:
    data = make_demo(tmp_path / "data")
    for chosen in (("mfcc",), ("logmel",)):
        config = BuildConfig(dataset="demo", features=chosen)
        build(BuildJob(config=config, data=data, out=tmp_path / chosen[-1]))
    make_features(job(tmp_path / "mfcc", tmp_path / "out", "logmel", workers=2))
    assert len(list(members(tmp_path / "out"))) == 132
    assert tars(tmp_path / "out") == tars(tmp_path / "logmel")


def test_what_is_there_already_is_kept_as_it_is(tmp_path: Path) -> None:
    """The stand-in's MFCCs are noise: nobody could have computed them."""
    shards = shard_folder(tmp_path / "shards")
    make_features(job(shards, tmp_path / "out", "mfcc", "logmel"))
    before, after = dict(members(shards)), dict(members(tmp_path / "out"))
    assert before.keys() == after.keys()
    for clip_id, kept in before.items():
        assert {name: after[clip_id][name] for name in kept} == kept
        assert list(after[clip_id]) == sorted(after[clip_id])  # receipts are sorted; the tar's own order is a build's
        assert set(after[clip_id]) == set(schema.member_names(("mfcc", "logmel")))


def test_made_from_what_was_made(built: Make, tmp_path: Path) -> None:
    make_features(job(built("mfcc"), tmp_path / "logmel", "logmel"))
    make_features(job(tmp_path / "logmel", tmp_path / "mfcc", "mfcc"))
    assert tars(tmp_path / "mfcc") == tars(built("mfcc"))


def test_any_number_of_workers_gives_the_same_folder(tmp_path: Path) -> None:
    shards = shard_folder(tmp_path / "shards")
    for workers in (1, 3):
        make_features(job(shards, tmp_path / str(workers), "stft", workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_other_versions_are_told(tmp_path: Path) -> None:
    shards = shard_folder(tmp_path / "shards")
    dataset = index.load_dataset(shards)
    older = {**dataset.identity, "versions": {"scipy": "1.0", "numpy": np.__version__, "ai-edge-litert": "0.1"}}
    (shards / "dataset.json").write_bytes(index.dump_dataset(replace(dataset, identity=older)))
    resign(shards)
    made = make_features(job(shards, tmp_path / "out", "logmel"))
    assert [line.partition(":")[0] for line in made.other_versions] == ["librosa", "multimae-der", "scipy"]
    assert made.other_versions[-1].startswith("scipy: 1.0 -> ")
    assert made.dataset.identity["versions"] == older["versions"]  # those of the faces


# --- without face models ---------------------------------------------------------------------------------------


def test_the_command_needs_no_face_model(tmp_path: Path) -> None:
    shards = shard_folder(tmp_path / "shards")
    program = [sys.executable, "-m", "tests.fakes.features_command"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    arguments = ["features", str(shards), "--feature", "logmel,mfcc", "--workers", "2"]
    done = subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "shards-logmel-mfcc"
    assert done.stdout.splitlines()[-3:] == [
        "clips     6, each with logmel and mfcc",
        f"shards    {out} (3 shards, 0 already built)",
        "folds     loso",
    ]
    assert verify(out, full=True) == []


# --- stopped and resumed ---------------------------------------------------------------------------------------


@KILL_STEPS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_write_then_resumed_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(engines, "ClipPool", clip_builder.InProcessPool)
    monkeypatch.setattr(features, "versions", dict)
    monkeypatch.setattr(features, "identity", vars)
    shards, out = shard_folder(tmp_path / "shards", speakers=("anna", "ben")), tmp_path / "out"
    task = job(shards, out, "mfcc")  # kept as it is: no spectrogram takes time here
    make_features(task)
    expected = contents(out)
    shutil.rmtree(out)
    points = 0
    while killed(task, points + step):
        points += step
        check_nothing_half_published(out, expected)
        make_features(task)
        assert contents(out) == expected, f"killed at call {points}"
        shutil.rmtree(out)
    assert points + step > 40


def check_nothing_half_published(out: Path, expected: Mapping[str, bytes]) -> None:
    """Shards and receipts are whole or not there; a folder that looks finished is."""
    for name, data in contents(out).items():
        if Path(name).suffix == ".tar" or Path(name).match("receipts/[!.]*"):
            assert data in (expected.get(name), EMPTY_TAR), name
    if (out / index.SUMS_FILE).exists() and verify(out) == []:
        assert verify(out, full=True) == []


def killed(task: FeaturesJob, at: int) -> bool:
    """Run in a forked process that dies at a call that changes the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                test_run.Fault(monkeypatch, at, test_run.die)
                make_features(task)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class Running:
    """The command in a session of its own, as a terminal would start it."""

    def __init__(self, shards: Path, out: Path, *arguments: str) -> None:
        self.tag = uuid.uuid4().hex
        environment = {**os.environ, clip_builder.TAG: self.tag, "PYTHONPATH": str(HERE.parents[1])}
        command = [sys.executable, "-m", "builder", "features", str(shards), "--out", str(out), *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def end(self, number: signal.Signals, *, group: bool) -> tuple[int, str]:
        """Send a signal and wait: exit status and errors. No process that it started may be left."""
        started = clip_builder.tagged(self.tag)
        (os.killpg if group else os.kill)(self.process.pid, number)
        complained = self.process.communicate(timeout=100)[1]
        assert clip_builder.survivors([*started, *clip_builder.tagged(self.tag)]) == []
        return self.process.returncode, complained


@pytest.mark.parametrize(
    ("number", "group"), [pytest.param(signal.SIGKILL, False, marks=pytest.mark.slow), (signal.SIGINT, True)]
)
def test_an_ended_run_leaves_no_process_and_goes_on(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    shards = shard_folder(tmp_path / "shards", speakers=[f"s{i:02d}" for i in range(10)])
    out = tmp_path / "out"
    running = Running(shards, out, "--feature", "stft", "--workers", "2")
    while running.process.poll() is None and not list(out.glob("receipts/*.json")):
        time.sleep(0.01)
    code, complained = running.end(number, group=group)
    if number is signal.SIGINT:
        assert code == 130
        assert complained.endswith("interrupted; run the same command to continue\n")
        assert "Traceback" not in complained
    else:
        assert code == -number
    done = [name for name in tars(out) if (out / index.receipt_name(name)).exists()]
    assert not index.load_dataset(out).complete
    assert done
    made = make_features(job(shards, out, "stft"))
    assert made.resumed >= len(done)
    assert 0 < made.resumed < 11
    make_features(job(shards, tmp_path / "undisturbed", "stft"))
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    shards, out = shard_folder(tmp_path / "shards", speakers=[f"s{i:02d}" for i in range(10)]), tmp_path / "out"
    running = Running(shards, out, "--feature", "stft", "--workers", "1")
    while running.process.poll() is None and not list(out.glob("receipts/*.json")):
        time.sleep(0.01)
    while running.process.poll() is None:  # one that replaces it, too
        for child in clip_builder.children(running.process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
    complained = running.process.communicate(timeout=100)[1]
    assert running.process.returncode == 2
    assert re.search(r"\nerror: a worker died.*; run (the same command to continue|make doctor)", complained)
    assert "Traceback" not in complained
    assert clip_builder.survivors(clip_builder.tagged(running.tag)) == []


def test_nothing_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = shard_folder(tmp_path / "shards")
    make_features(job(shards, tmp_path / "out", "stft"))
    before = contents(tmp_path / "out")
    monkeypatch.setattr(engines, "ClipPool", None)
    assert make_features(job(shards, tmp_path / "out", "stft")).resumed == 4
    assert contents(tmp_path / "out") == before


def test_a_shard_that_was_damaged_since_is_made_again(tmp_path: Path) -> None:
    shards, out = shard_folder(tmp_path / "shards"), tmp_path / "out"
    make_features(job(shards, out, "stft"))
    before = contents(out)
    flip_a_bit(out / "ben-000.tar")
    assert make_features(job(shards, out, "stft")).resumed == 3
    assert contents(out) == before


# --- refused ---------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_shards_are_refused_naming_the_file(tmp_path: Path) -> None:
    shards = shard_folder(tmp_path / "shards")
    flip_a_bit(shards / "ben-000.tar")
    (shards / "anna-000.tar").unlink()
    with pytest.raises(
        ManifestError, match=r"shards: anna-000.tar: found nothing, expected a file \(2 problems in total, "
    ):
        make_features(job(shards, tmp_path / "out", "stft"))
    assert not (tmp_path / "out").exists()


def test_an_unfinished_build_is_refused(tmp_path: Path) -> None:
    shards = shard_folder(tmp_path / "shards")
    draft = replace(index.load_dataset(shards), complete=False)
    (shards / "dataset.json").write_bytes(index.dump_dataset(draft))
    with pytest.raises(ManifestError, match=r"dataset.json: found an unfinished build, expected a finished one"):
        make_features(job(shards, tmp_path / "out", "stft"))


@pytest.mark.parametrize("out", ["shards", "shards/inside", "link", "."])
def test_the_same_folder_is_refused(tmp_path: Path, out: str) -> None:
    shards = shard_folder(tmp_path / "shards")
    before = contents(shards)
    (tmp_path / "link").symlink_to(shards)
    with pytest.raises(FolderError, match=r"the new shards need a separate folder, outside of .*; choose it with TO="):
        make_features(job(shards, tmp_path / out, "stft"))
    assert contents(shards) == before


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        (("lpc",), "feature: found 'lpc', expected one of mfcc, logmel, stft"),
        ((), "features: found none, expected one or more of mfcc, logmel, stft, each once"),
        (("stft", "stft"), "features: found stft, stft, expected one or more of mfcc, logmel, stft, each once"),
    ],
)
def test_unknown_features_are_refused(tmp_path: Path, chosen: Sequence[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_features(job(shard_folder(tmp_path / "shards"), tmp_path / "out", *chosen))


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    shards, out = shard_folder(tmp_path / "shards"), tmp_path / "out"
    out.mkdir()
    (out / "photos.tar").write_bytes(b"mine")
    with pytest.raises(
        FolderError, match=r"photos.tar: not written by a build: found no dataset.json; choose an empty folder with TO="
    ):
        make_features(job(shards, out, "stft"))
    assert contents(out) == {"photos.tar": b"mine"}


def test_a_folder_of_other_shards_is_refused_naming_the_difference(tmp_path: Path) -> None:
    shards, out = shard_folder(tmp_path / "shards"), tmp_path / "out"
    make_features(job(shards, out, "stft"))
    before = contents(out)
    with pytest.raises(FolderError, match=r"was built differently \(config.features: \['stft'\] -> \['logmel'\]\); "):
        make_features(job(shards, out, "logmel"))
    other = shard_folder(tmp_path / "other", speakers=("anna",))
    with pytest.raises(FolderError, match=r"\(spectrograms_from.index_sha256: \w+ -> \w+\); choose another TO="):
        make_features(job(other, out, "stft"))
    assert contents(out) == before
    of_recordings = shard_folder(tmp_path / "recordings", ("stft",))
    with pytest.raises(FolderError, match=r"\(spectrograms_from: None -> SHA-256 \w+\); choose another TO="):
        make_features(job(shards, of_recordings, "stft"))
    assert verify(of_recordings, full=True) == []


def test_a_folder_that_another_works_in_is_refused(tmp_path: Path) -> None:
    shards, out = shard_folder(tmp_path / "shards"), tmp_path / "out"
    with exclusive_lock(out), pytest.raises(FolderError, match=f"locked by process {os.getpid()} on .*"):
        make_features(job(shards, out, "stft"))


def test_a_sample_that_cannot_be_read_names_shard_and_clip(tmp_path: Path) -> None:
    """The hashes agree: whoever made the folder made it so."""
    shards = shard_folder(tmp_path / "shards")
    receipt = index.load_receipt(shards / "receipts/ben-000.json")
    start, size = receipt.members["ben-joy"]["audio.flac"]
    tar = bytearray((shards / "ben-000.tar").read_bytes())
    tar[start : start + size] = bytes(size)
    (shards / "ben-000.tar").write_bytes(tar)
    signed = replace(receipt, sha256=index.file_sha256(shards / "ben-000.tar"))
    (shards / "receipts/ben-000.json").write_bytes(index.dump_receipt(signed))
    resign(shards)
    with pytest.raises(ManifestError, match=r"ben-000.tar: found .*ben-joy: audio.flac: not FLAC that can be decoded"):
        make_features(job(shards, tmp_path / "out", "stft"))
    assert "ben-000.tar" not in tars(tmp_path / "out")


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(tmp_path / "nowhere"), "--feature", "stft"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: {tmp_path}/nowhere/dataset.json: missing; is this a finished shard folder?\n"
    with pytest.raises(SystemExit, match="2"):
        main(["features", str(tmp_path)])
    assert capsys.readouterr().err.startswith("error: the following arguments are required: --feature; ")

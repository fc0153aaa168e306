"""What is wrong with a machine is one line each, with what to do about it, even where nothing can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from builder import doctor
from builder.cli import make_parser
from builder.doctor import BACKENDS, Check, main, run_checks
from builder.engines import LocalPool
from builder.worker import count_cores
from tests.factories import corpora

FEW = {"numpy, scipy": BACKENDS["numpy, scipy"], "soxr, librosa (sound)": BACKENDS["soxr, librosa (sound)"]}


def checks(tmp_path: Path, dataset: str = "demo") -> dict[str, Check]:
    return {check.name: check for check in run_checks(dataset, tmp_path / "data", tmp_path / "shards")}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer backends, for tests that are not about them."""
    monkeypatch.setattr(doctor, "BACKENDS", {"numpy, scipy": "print('well')"})


def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str) -> None:
    """Put a module in the way of the installed one."""
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.slow
def test_this_machine_is_well(tmp_path: Path) -> None:
    unwell = [check for check in checks(tmp_path).values() if not check.ok]
    assert unwell == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("raise ImportError('libsoxr.so.0: cannot open shared object file')", "ImportError: libsoxr.so.0: cannot open"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import os; os._exit(3)", "exit code 3, no message"),
        ("import time; time.sleep(1000)", "no answer within 0.5 s"),
    ],
)
def test_a_backend_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    monkeypatch.setattr(doctor, "BACKENDS", FEW if "time" not in text else {"soxr, librosa (sound)": "import soxr"})
    monkeypatch.setattr(doctor, "BACKEND_SECONDS", 0.5 if "time" in text else 60.0)
    broken(tmp_path, monkeypatch, "soxr", text)
    every = checks(tmp_path)
    unwell = every["soxr, librosa (sound)"]
    assert not unwell.ok
    assert unwell.found.startswith(found)
    assert "\n" not in unwell.found
    assert unwell.advice == "run make clean, then the same command again, to set up the environment from scratch"
    assert all(check.ok for name, check in every.items() if name not in ("soxr, librosa (sound)", "memory"))


def test_it_speaks_where_no_backend_can_be_imported(tmp_path: Path) -> None:
    """The module itself needs nothing but the standard library."""
    for module in ("numpy", "cv2", "av", "ai_edge_litert", "mediapipe", "soundfile", "tqdm"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('not installed')")
    command = [sys.executable, "-c", "import builder.doctor"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True, timeout=60)


def test_the_command_prints_advice_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "BACKENDS", {"soxr": "import soxr; print(1)"})
    broken(tmp_path, monkeypatch, "soxr", "raise ImportError('no soxr')")
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("FAIL  soxr: ImportError: no soxr")
    assert lines[at + 1] == "      run make clean, then the same command again, to set up the environment from scratch"
    assert sum(line.startswith("ok  ") for line in lines) >= 4


def test_the_command_is_content(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 64 << 30)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_too_little_disk(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 3 * 10**9, 3 * 10**9))
    check = checks(tmp_path, "crema-d")["disk"]
    assert not check.ok
    assert check.found == f"3.0 GB free for {tmp_path / 'shards'}"
    assert check.advice == "the shards of crema-d take about 5 GB; free some space, or choose another folder with OUT="
    assert checks(tmp_path, "demo")["disk"].ok


def test_too_little_memory(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 1_100_000_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    check = checks(tmp_path)["memory"]
    assert (check.ok, check.found) == (False, "1.1 GB free; 16 workers: about 8.0 GB")
    assert check.advice == "use fewer workers: WORKERS=2"


def test_a_system_without_what_only_linux_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delitem(os.sysconf_names, "SC_AVPHYS_PAGES", raising=False)
    monkeypatch.setattr(doctor, "Path", lambda _: Path("/no/such/file"))
    assert doctor.available_bytes() > 1e8
    assert LocalPool().workers == count_cores() == os.cpu_count()
    assert make_parser().parse_args(["shards"]).workers == os.cpu_count()


def test_an_output_folder_that_is_none(tmp_path: Path, few: None) -> None:
    (tmp_path / "shards").write_text("a file")
    check = checks(tmp_path)["output"]
    assert (check.ok, check.advice) == (False, "choose another folder with OUT=")
    assert check.found == f"{tmp_path / 'shards'} is not a folder that can be written to"


def test_the_corpus_is_looked_at(tmp_path: Path, few: None) -> None:
    assert checks(tmp_path, "folder")["corpus"] == Check(
        name="corpus",
        ok=False,
        found=f"{tmp_path / 'data'}: no such folder; set the corpus folder with DATA=",
        advice="set the corpus folder with DATA=",
    )
    corpora.folder(tmp_path / "data")
    check = checks(tmp_path, "folder")["corpus"]
    assert (check.ok, check.found) == (True, "6 clips, 0 files missing")


EXPECTED = {"protobuf": "==4.25.9", "torch": "==2.13.0", "scipy": ">=1.17,<2", "av": ">=18,<19", "absent": "==1"}


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({"protobuf": "4.25.9", "torch": "2.13.0+cpu", "scipy": "1.17.1", "other": "3"}, []),
        ({"protobuf": "7.36.2", "torch": "2.13.0"}, ["found 7.36.2, expected 4.25.9"]),
        ({"scipy": "1.9"}, ["found 1.9, expected >=1.17,<2"]),
        ({"scipy": "2.0.0", "av": "17.9"}, ["found 17.9, expected >=18,<19", "found 2.0.0, expected >=1.17,<2"]),
        ({"scipy": "1.17", "av": "18"}, []),
    ],
)
def test_packages_that_left_their_versions_are_named(installed: dict[str, str], found: list[str]) -> None:
    every = list(doctor.check_packages(installed, EXPECTED))
    unwell = [check for check in every if not check.ok]
    assert [check.found.partition(";")[0] for check in unwell] == found
    for check in unwell:
        name = check.name.removeprefix("package ")
        assert " -m pip install --no-deps " in check.found
        assert f"{name}{EXPECTED[name]}" in check.found
    assert bool(unwell) != any(check.ok for check in every)


def test_versions_are_those_of_the_constraints_or_of_the_requirements(tmp_path: Path) -> None:
    pins = doctor.expected_packages()
    assert pins["protobuf"].startswith("==4.")
    assert {"tensorboard", "wandb", "pyarrow", "ai-edge-litert", "mediapipe", "scikit-image"} <= pins.keys()
    required = doctor.expected_packages(tmp_path / "absent")
    assert "<2" in required["scipy"].split(",")
    assert "torch" not in required  # of the trainer
    (tmp_path / "constraints.txt").write_text("# text\nProto_Buf==1.0 # why\n\nnot a requirement\n")
    assert doctor.expected_packages(tmp_path / "constraints.txt", "absent") == {"proto-buf": "==1.0"}


def test_a_package_is_one_line_of_the_command(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed_packages", lambda: {"protobuf": "7.36.2", "numpy": "2.4.6"})
    monkeypatch.setattr(doctor, "expected_packages", lambda: {"protobuf": "==4.25.9", "numpy": "==2.4.6"})
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("FAIL  package"))
    command = f"{sys.executable} -m pip install --no-deps protobuf==4.25.9"
    assert lines[at] == f"FAIL  package protobuf: found 7.36.2, expected 4.25.9; repair it: {command}"
    assert not lines[at + 1].startswith(" ")


def test_one_clip_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text("clip,speaker,emotion\na.mp4,anna,joy\n")
    assert doctor.run_python(doctor.SCAN, "folder", str(tmp_path)) == (True, "1 clip, 0 files missing")

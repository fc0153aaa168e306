"""Settings reach a command as they were written: neither make nor a shell runs or changes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
#: What `make test` hands to its tests, settings among them, must not reach the make that is tested.
INHERITED = {"MAKEFLAGS", "MFLAGS", "PYTHONPATH", *re.findall(r"\b[A-Z][A-Z_]+\b", MAKEFILE.partition("START =")[0])}
INHERITED |= {"GIVEN_DATASET", "GIVEN_OUT", "GOAL"}
#: Prints its arguments, in place of the program that a target starts.
PROGRAM = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"

#: Each would leave a file `ran` if make or a shell ran it.
HOSTILE = (
    "$(shell touch ran)",
    "${shell touch ran}",
    "$$(touch ran)",
    "`touch ran`",
    "; touch ran",
    "x' ; touch ran ; '",
    'x" ; touch ran ; "',
    "x\ntouch ran",
    "/data/a$b",
    "/data/a$$b",
    "/data/$(HOME)/$HOME/~/*",
    "a  b\tc ",
    "it's a #name \\ with (brackets), 100 %",
    "-x",
)
#: Target -> its arguments for a value of OUT.
TARGETS = {
    "plan": lambda value: ["plan", "--dataset=demo", "--data=data/demo", f"--out={value}"],
    "verify": lambda value: ["verify", f"./{value}" if value.startswith("-") else value],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the Makefile, whose environment is complete and whose programs print their arguments."""
    for name in ("Makefile", ".make.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "bin" / "pip").write_text(f"#!{tmp_path}/.venv/bin/python\n")
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    (tmp_path / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages").mkdir(parents=True)
    for name in re.findall(r"^EXTRAS_([a-z]+)", MAKEFILE, re.MULTILINE):
        (tmp_path / ".venv" / f"{name}.ok").touch()
    for package in ("builder", "manifests", "train"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "__main__.py").write_text(PROGRAM)
    (tmp_path / "builder" / "doctor.py").write_text(PROGRAM)
    return tmp_path


def make(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=home, env=environment | settings, capture_output=True, text=True, check=False)


def arguments_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("exported", [False, True], ids=["argument", "environment"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_setting_is_neither_run_nor_changed(home: Path, target: str, value: str, exported: bool) -> None:
    done = make(home, target, OUT=value) if exported else make(home, target, f"OUT={value}")
    assert arguments_of(done) == TARGETS[target](value)
    assert not (home / "ran").exists()


@pytest.mark.parametrize(
    "target", re.findall(r"^\t\$\(START\) (?:builder|manifests|train)[. ](\w+)", MAKEFILE, re.MULTILINE)
)
def test_no_setting_of_any_target_is_run(home: Path, target: str) -> None:
    """Given to make, where those that a target does not read are refused, and exported, where they are not."""
    names = MAKEFILE.partition("SETTINGS := ")[2].partition("\n\n")[0].replace("\\", "").split()
    goal, evil = "results" if target == "report" else target, "$(shell touch ran)`touch ran`;touch ran"
    flags = dict.fromkeys(re.findall(r"--[a-z-]+:([A-Z_]+)", MAKEFILE), "1")
    done = make(home, goal, **dict.fromkeys(names, evil) | flags)
    assert json.loads(done.stdout)[0] in (target, f"--dataset={evil}")
    done = make(home, goal, *(f"{name}={evil}" for name in names if name != "PYTHON"))
    assert done.returncode == 2
    assert f"error: make {goal}: " in done.stderr
    make(home, goal, **dict.fromkeys(names, evil))  # flags, too
    assert not (home / "ran").exists()


def test_a_setting_that_does_not_exist_is_refused(home: Path) -> None:
    done = make(home, "shards", "FEATURES=$(shell touch ran)`touch ran`;touch ran", "OUT=o")
    assert done.returncode == 2
    assert "FEATURES is not a setting here, the nearest is FEATURE (there are AFFIRM ALIGN" in done.stderr
    assert not (home / "ran").exists()


@pytest.mark.parametrize(
    ("target", "setting", "said"),
    [
        ("predict", "OUT=x.csv", "; the file to write is TO="),
        ("train", "FOLDS=1", "FOLDS is not a setting here, the nearest is FOLD"),
        ("train", "SPLIT=test", "SPLIT is not a setting here"),
        ("verify", "DATA=x", "DATA is not a setting here"),
        ("verify", "ARGS=--full", "ARGS is not a setting here"),
    ],
)
def test_a_setting_that_a_target_does_not_use_is_refused(home: Path, target: str, setting: str, said: str) -> None:
    done = make(home, target, setting, *(["RUN=run"] if target == "predict" else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_an_option_of_a_command_is_no_setting(home: Path) -> None:
    done = make(home, "train", "class_weights=balanced")
    assert done.returncode == 2
    assert 'with ARGS, as in ARGS="--set class_weights=balanced" (there are' in done.stderr


@pytest.mark.parametrize("target", ["features", "share", "fetch", "folds", "withdraw", "predict", "export", "tokens"])
def test_help_of_a_command_needs_no_setting(home: Path, target: str) -> None:
    assert arguments_of(make(home, target, "ARGS=--help"))[-1] == "--help"
    assert "= is missing: " in make(home, target).stderr


def test_short_settings_of_a_training(home: Path) -> None:
    done = arguments_of(make(home, "train", "EPOCHS=3", "BATCH=8", "LR=1e-4"))
    assert done == ["train", "--runs=runs", "--epochs=3", "--batch=8", "--learning-rate=1e-4"]


@pytest.mark.parametrize(
    "target", re.findall(r"^\t\$\(START\) (?:builder|manifests|train)[. ](\w+)", MAKEFILE, re.MULTILINE)
)
def test_help_lists_the_settings_of_a_target(home: Path, target: str) -> None:
    """Those that it lists are those that it accepts."""
    goal = "results" if target == "report" else target
    listed = {line.split()[0] for line in make(home, "help", f"TARGET={goal}").stdout.splitlines()}
    required = {"predict": "RUN=r", "export": "RUN=r", "share": "DEST=d", "fetch": "FROM=f", "withdraw": "SPEAKER=s"}
    required |= {"features": "FEATURE=mfcc", "folds": "SCHEME=s.csv", "embeddings": "TO=x.npz", "tokens": "WEIGHTS=w"}
    given = [required[goal], *(["OUT=o"] if goal == "export" else [])] if goal in required else []
    assert listed
    assert make(home, goal, *given, *(f"{name}=1" for name in listed - {"ARGS=--help", "ENGINE"})).returncode == 0
    for name in {"AFFIRM", "CLIP", "ENGINE", "STRATEGY", "TARGET"} - listed:
        assert f"{name} is not a setting here" in make(home, goal, *given, f"{name}=1").stderr


def test_help_runs_nothing(home: Path) -> None:
    for value in HOSTILE:
        assert make(home, "help", f"TARGET={value}").returncode == 0
    assert not (home / "ran").exists()


def test_recordings_are_one_file_or_words_quoted_as_for_a_shell(home: Path) -> None:
    (home / "it's one; $x.mp4").touch()

    def clips(text: str) -> list[str]:
        return arguments_of(make(home, "predict", "RUN=run", f"CLIP={text}"))[2:]

    assert clips("it's one; $x.mp4") == ["it's one; $x.mp4"]
    assert clips("a.mp4  'b $c; d.mp4' \"it's.mp4\"") == ["a.mp4", "b $c; d.mp4", "it's.mp4"]
    done = make(home, "predict", "RUN=run", "CLIP=it's")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        'error: CLIP: found "it\'s", expected values separated by spaces, each quote closed'
    )


def test_further_options_are_words_and_come_last(home: Path) -> None:
    done = make(home, "train", "FOLD=1 2", "ARGS=--seed 3 --weights 'a b; touch ran'")
    assert arguments_of(done) == [
        *("train", "--runs=runs", "--fold", "1", "2", "--seed", "3", "--weights", "a b; touch ran")
    ]


def test_several_loggers_and_files_to_write(home: Path) -> None:
    assert arguments_of(make(home, "train", "LOGGER=tensorboard wandb")) == [
        *("train", "--runs=runs", "--logger", "tensorboard", "wandb")
    ]
    done = make(home, "embeddings", "RUN=r", "LAYER=0", "TO=a b.parquet")
    assert arguments_of(done) == ["embeddings", "--run=r", "--layer=0", "--out=a b.parquet"]
    done = make(home, "predict", "RUN=r", "CLIP='*.mp4' $$x", "FORMAT=json", "TO=out.json", "PROBABILITIES=1")
    options = ["--format=json", "--out=out.json", "--probabilities"]
    assert arguments_of(done) == ["predict", "--run=r", *options, "*.mp4", "$$x"]


def test_flags_and_repeated_options(home: Path) -> None:
    done = make(home, "shards", "OPTION=labels=voted sound=separate", "ALLOW_DROPS=1", "OUT=o", "DATA=d")
    options = ["--option=labels=voted", "--option=sound=separate", "--allow-drops"]
    assert arguments_of(done) == ["shards", "--dataset=demo", "--data=d", "--out=o", *options]


@pytest.mark.parametrize("value", ["0", "yes", "false"])
def test_a_flag_is_on_only_with_1(home: Path, value: str) -> None:
    """`PRUNE=0` must not delete anything."""
    done = make(home, "shards", f"PRUNE={value}", "OUT=o", "DATA=d")
    if value == "0":
        assert arguments_of(done) == ["shards", "--dataset=demo", "--data=d", "--out=o"]
    else:
        assert f"error: PRUNE: found '{value}', expected 1, or 0 to leave it off" in done.stderr


def test_columns_of_a_table_are_words_and_the_width_of_a_terminal_is_none(home: Path) -> None:
    done = make(home, "plan", "COLUMNS=File=clip 'Speaker no.=speaker'", "OUT=o", "DATA=d")
    columns = ["--column=File=clip", "--column=Speaker no.=speaker"]
    assert arguments_of(done) == ["plan", "--dataset=demo", "--data=d", "--out=o", *columns]
    assert arguments_of(make(home, "plan", COLUMNS="80")) == ["plan", "--dataset=demo", "--data=data/demo"]


def test_the_name_of_a_corpus_decides_on_its_folders(home: Path) -> None:
    """The builder derives that of the shards."""
    own = ["DATASET=folder", "NAME=mine"]
    for target in ("shards", "plan", "report", "doctor"):
        command = [] if target == "doctor" else [target]
        named = [*command, "--dataset=folder", "--name=mine"]
        assert arguments_of(make(home, target, *own)) == [*named, "--data=data/mine"]
        assert arguments_of(make(home, target, *own, "DATA=d", "OUT=o")) == [*named, "--data=d", "--out=o"]
        unnamed = [*command, "--dataset=folder", "--data=/r/interviews"]
        assert arguments_of(make(home, target, "DATASET=folder", "DATA=/r/interviews")) == unnamed


def test_finished_shards_of_a_named_corpus_are_those_of_a_dataset(home: Path) -> None:
    required = {"share": ["DEST=d"], "fetch": ["FROM=f"], "folds": ["SCHEME=s.csv"], "withdraw": ["SPEAKER=s"]}
    required |= {"verify": [], "features": ["FEATURE=logmel"], "tokens": ["WEIGHTS=w"]}
    for target, given in required.items():
        assert "shards/interviews" in arguments_of(make(home, target, "DATASET=interviews", *given))
    required |= {"train": [], "sweep": [], "embeddings": ["TO=x.npz"]}
    for target in ("train", "sweep", "embeddings"):
        assert "--dataset=interviews" in arguments_of(make(home, target, "DATASET=interviews", *required[target]))
    for target, given in required.items():
        done = make(home, target, "DATASET=folder", "NAME=mine", *given)
        assert (done.returncode, done.stdout) == (2, "")
        said = "NAME is not a setting here; finished shards of NAME=mine are DATASET=mine"
        assert done.stderr.splitlines()[0] == f"error: make {target}: {said}"


def test_several_corpora_are_words_where_a_command_takes_them(home: Path) -> None:
    for target in ("train", "sweep", "pretrain", "tokenizers"):
        done = make(home, target, "DATASET=crema-d ravdess", "SCHEME=crema-d-5fold 'my split.csv'")
        options = ["--dataset", "crema-d", "ravdess", "--fold-scheme", "crema-d-5fold", "my split.csv"]
        assert arguments_of(done) == [target, "--runs=runs", *options]
    assert "make pretrain: TEST is not a setting here" in make(home, "pretrain", "TEST=ravdess").stderr
    for target in ("train", "sweep"):
        done = make(home, target, "SHARDS=a https://example.org/b", "TEST=ravdess 'c d'", "LABELS=map.csv")
        options = ["--shards", "a", "https://example.org/b", "--label-scheme=map.csv", "--test", "ravdess", "c d"]
        assert arguments_of(done) == [target, "--runs=runs", *options]
        assert arguments_of(make(home, target, "TEST=ravdess"))[-1] == "--test=ravdess"
    (home / "one folder").mkdir()
    assert arguments_of(make(home, "train", "SHARDS=one folder"))[-1] == "--shards=one folder"
    done = make(home, "train", "SHARDS=it's")
    assert 'error: SHARDS: found "it\'s", expected values separated by spaces' in done.stderr
    assert (home / ".venv" / "stores.ok").unlink() is None
    assert ".[hub,s3]" in make(home, "--dry-run", "train", "DATASET=a", "TEST=s3://bucket/b").stdout


def test_other_commands_take_one_corpus_at_a_time(home: Path) -> None:
    required = {"share": ["DEST=d"], "fetch": ["FROM=f"], "folds": ["SCHEME=s.csv"], "withdraw": ["SPEAKER=s"]}
    required |= {"features": ["FEATURE=logmel"], "embeddings": ["TO=x.npz"]}
    required |= {target: [] for target in ("corpus", "shards", "plan", "verify", "report", "doctor")}
    for target, given in required.items():
        done = make(home, target, "DATASET=crema-d ravdess", *given)
        assert (done.returncode, done.stdout) == (2, "")
        said = f"error: make {target}: DATASET: found 'crema-d ravdess', expected one corpus at a time"
        assert done.stderr.splitlines()[0] == said
        refused = make(home, target, "TEST=ravdess", *given)
        assert "TEST is not a setting here" in refused.stderr


def test_the_name_of_a_machine_is_not_that_of_a_corpus(home: Path) -> None:
    """Which Windows Subsystem for Linux exports as NAME."""
    assert arguments_of(make(home, "plan", NAME="DESKTOP-1")) == ["plan", "--dataset=demo", "--data=data/demo"]
    assert arguments_of(make(home, "verify", NAME="DESKTOP-1")) == ["verify", "shards/demo"]


def test_a_workbook_needs_a_package_that_others_do_not(home: Path) -> None:
    (home / ".venv" / "excel.ok").unlink()
    (home / "data" / "sheets").mkdir(parents=True)
    (home / "data" / "sheets" / "clips.xlsx").touch()
    for arguments, needed in (
        (["DATASET=sheets"], True),
        (["OPTION=csv=part 1.csv csv=part2.xlsx"], True),
        (["DATASET=demo"], False),
    ):
        done = make(home, "--dry-run", "plan", *arguments)
        assert done.returncode == 0, done.stderr
        assert (".[excel]" in done.stdout) is needed, arguments


def test_the_checkout_may_be_in_a_folder_of_any_name(home: Path) -> None:
    moved = home.with_name("it's $(shell touch ran) `touch ran`; $x")
    home.rename(moved)
    (moved / ".venv" / "bin" / "pip").write_text(f"#!/bin/sh\n'''exec' '{moved}/.venv/bin/python' '$0'\n")
    assert arguments_of(make(moved, "verify")) == ["verify", "shards/demo"]
    assert "make plan" not in make(moved, "help").stderr
    assert not list(moved.glob("ran"))


def test_keep_is_a_setting_of_builds_and_archives_have_their_own(home: Path) -> None:
    """`KEEP=1` of older versions is refused, so that nobody's archives are removed by surprise."""
    assert "--keep=incomplete" in arguments_of(make(home, "shards", "KEEP=incomplete"))
    assert "--keep=incomplete" in arguments_of(make(home, "plan", "KEEP=incomplete"))
    assert arguments_of(make(home, "corpus", "KEEP_ARCHIVES=1"))[-1] == "--keep-archives"
    assert "--keep-archives" not in arguments_of(make(home, "corpus"))
    refused = make(home, "corpus", "KEEP=1")
    assert refused.returncode == 2
    assert "KEEP=1: expected KEEP_ARCHIVES=1 to keep archives" in refused.stderr

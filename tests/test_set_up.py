"""The environment that make sets up: with a Python that fits, once for all commands, again if it cannot be used."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("Makefile", ".make.py", "pyproject.toml", "constraints.txt")
INHERITED = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "PYTHONPATH", "VIRTUAL_ENV", "GIVEN", "OUT", "TARGET"}
#: Makes an environment as venv does, with a pip that installs nothing and writes down what it is asked for.
PYTHON = f"""#!/bin/sh
test "$1 $2" = "-m venv" || exec {sys.executable} "$@"
echo made >> made
{sys.executable} -m venv --without-pip "$3"
echo "#!$PWD/$3/bin/python" > "$3/bin/pip"
cd "$3"/lib/python*/site-packages
mkdir pip
cp "$OLDPWD/pip.py" pip/__main__.py
"""
PIP = "import sys, time\ntime.sleep(0.2)\nopen('installed', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
EXPECTED = (
    r"expected Python 3\.11 or 3\.12; install it, or set PYTHON=/path/to/python3\.11 \(with conda: see README\.md\)"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the Makefile, without an environment."""
    home = tmp_path / "clone"
    home.mkdir()
    for name in NAMES:
        shutil.copy(ROOT / name, home)
    (home / "manifests").mkdir()
    (home / "manifests" / "__main__.py").write_text("print('verified')\n")
    (home / "pip.py").write_text(PIP)
    program(home / "python", PYTHON)
    return home


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED} | {"PYTHON": "./python"}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=home, env=environment | settings, capture_output=True, text=True, check=False)


def verified(home: Path, *arguments: str) -> list[str]:
    """What `make verify` prints before it verifies."""
    done = make(home, "verify", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "verified"
    return lines


def count(file: Path) -> int:
    return len(file.read_text().splitlines())


SET_UP = "setting up .venv for core: packages are downloaded, once, which takes minutes"


def test_packages_are_installed_once_and_again_when_the_project_needs_others(home: Path) -> None:
    assert verified(home) == [SET_UP]
    assert verified(home) == []
    more = "setting up .venv for stores: a few more packages are downloaded, once"
    assert make(home, "share", "DEST=s3://bucket/path").stdout.splitlines()[0] == more
    (home / "installed").write_text("".join((home / "installed").read_text().splitlines(keepends=True)[:1]))
    os.utime(home / ".venv" / "core.ok", (1e9, 1e9))  # older than pyproject.toml
    assert verified(home) == [SET_UP]
    assert count(home / "made") == 1
    options = "--quiet --disable-pip-version-check --constraint constraints.txt"
    assert (home / "installed").read_text() == f"install {options} --editable .\n" * 2


def test_mediapipe_is_installed_without_its_dependencies(home: Path) -> None:
    (home / "builder").mkdir()
    (home / "builder" / "__main__.py").touch()
    assert make(home, "report").returncode == 0
    first, second = (home / "installed").read_text().splitlines()
    assert first.endswith(" constraints.txt --editable .[builder]")
    assert second.endswith(" constraints.txt --no-deps mediapipe")


@pytest.mark.parametrize("exported", [False, True], ids=["argument", "environment"])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#!/bin/sh\necho 3.13.0\n", r"found Python 3\.13\.0"),
        ("#!/bin/sh\necho 2.7.18\nexit 1\n", r"found Python 2\.7\.18"),
        ("#!/bin/sh\necho 3.11.4\necho /usr\nexit 1\n", r"found no module ensurepip \(apt install python3\.11-venv\)"),
        ("#!/bin/sh\necho hello\n", "found a program that is not Python"),
        ("", r"cannot be started \(.*\)"),
        (None, r"cannot be started \(No such file or directory\)"),
    ],
)
def test_a_python_that_does_not_fit_is_refused_before_anything_is_made(
    home: Path, text: str | None, found: str, exported: bool
) -> None:
    other = home / "it's $(touch ran)"
    if text is not None:
        program(other, text)
    done = make(home, "verify", PYTHON=str(other)) if exported else make(home, "verify", f"PYTHON={other}")
    assert (done.returncode, done.stdout) == (2, "")
    line, *rest = done.stderr.splitlines()
    assert re.fullmatch(rf"error: PYTHON={re.escape(str(other))}: {found}, {EXPECTED}", line)
    assert len(rest) == 1  # make's own
    assert not {".venv", "made", "installed", "ran"} & {path.name for path in home.iterdir()}


def test_a_system_without_a_python_that_fits_is_told_so(home: Path) -> None:
    text = (home / "pyproject.toml").read_text().replace(">=3.11,<3.13", ">=3.20,<3.22")
    (home / "pyproject.toml").write_text(text)
    done = make(home, "verify", PYTHON="")
    assert done.returncode == 2
    assert re.match(r"error: /.*: found Python 3\.\d+\.\d+, expected Python 3\.20 or 3\.21; install it", done.stderr)
    assert not (home / ".venv").exists()


def lose_python(home: Path) -> str:
    (home / ".venv" / "bin" / "python").unlink()
    (home / ".venv" / "bin" / "python").symlink_to("/no/such/python3.11")
    return r"its Python cannot be started \(No such file or directory\)"


def change_version(home: Path) -> str:
    (packages,) = (home / ".venv" / "lib").glob("python*")
    packages.rename(packages.with_name("python3.9"))
    return r"found Python 3\.1\d, expected the version that the environment was made with"


def interrupt(home: Path) -> str:
    (home / ".venv" / "bin" / "pip").unlink()
    return "found no pip, expected a complete environment"


def move(home: Path) -> str:
    shutil.move(home, home.with_name("moved"))
    shutil.copytree(home.with_name("moved"), home, symlinks=True)
    shutil.rmtree(home.with_name("moved"))
    scripts = home / ".venv" / "bin"
    (scripts / "pip").write_text((scripts / "pip").read_text().replace("/clone/", "/moved/"))
    return r"found programs that use .*/moved/\.venv/bin, expected this folder; it was moved or copied"


FAULTS = (lose_python, change_version, interrupt, move)


@pytest.mark.parametrize("spoil", FAULTS)
def test_an_environment_that_cannot_be_used_is_made_again(home: Path, spoil: object) -> None:
    verified(home)
    why = spoil(home)
    first, second = verified(home)
    assert re.fullmatch(rf"\.venv is made again: {why}", first)
    assert second == SET_UP
    assert verified(home) == []
    assert count(home / "made") == count(home / "installed") == 2


def test_the_environment_of_a_version_that_is_not_supported_is_kept_until_there_is_another_python(home: Path) -> None:
    verified(home)
    text = (home / "pyproject.toml").read_text().replace(">=3.11,<3.13", ">=3.20,<3.22")
    (home / "pyproject.toml").write_text(text)
    done = make(home, "verify")
    assert done.returncode == 2
    assert re.match(r"error: PYTHON=\./python: found Python 3\.\d+\.\d+, expected Python 3\.20 or 3\.21", done.stderr)
    assert (home / ".venv" / "core.ok").exists()


def test_another_python_is_used_where_it_is_given_to_make(home: Path) -> None:
    verified(home)
    other = program(
        home / "other", PYTHON.replace("test ", 'test "$1" = -ES && echo 3.12.1 && echo /opt && exit\ntest ')
    )
    done = make(home, "verify", PYTHON="./other")  # exported, as for other programs
    assert done.stdout == "verified\n"
    assert verified(home, "PYTHON=./python") == []
    assert verified(home, f"PYTHON={other}")[0] == f".venv is made again: found another Python than PYTHON={other}"


@pytest.mark.parametrize("spoil", FAULTS)
def test_what_is_not_an_environment_of_this_folder_is_never_replaced(home: Path, spoil: object) -> None:
    verified(home)
    spoil(home)
    (home / ".venv").rename(home / "elsewhere")
    (home / ".venv").symlink_to("elsewhere")
    before = sorted(home.rglob("*"))
    done = make(home, "verify")
    assert done.returncode == 2
    assert re.match(r"error: \.venv: .*; it is a link and therefore not replaced: remove or rename it\n", done.stderr)
    (home / ".venv").unlink()
    (home / "elsewhere").rename(home / ".venv")
    (home / ".venv" / "bin" / "python").unlink()
    (home / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.8\n")
    assert "it is no environment that venv made" in make(home, "verify").stderr
    (home / ".venv" / "pyvenv.cfg").unlink()
    done = make(home, "verify")
    assert done.returncode == 2
    assert re.match(r"error: \.venv: .*; it is no environment that venv made and therefore not replaced", done.stderr)
    assert len(sorted(home.rglob("*"))) == len(before) - 3


def test_a_link_to_an_environment_that_can_be_used_is_used(home: Path) -> None:
    verified(home)
    shutil.copytree(home / ".venv", home / "elsewhere", symlinks=True)
    (home / "elsewhere" / "bin" / "pip").write_text(f"#!{home}/elsewhere/bin/python3\n")
    shutil.rmtree(home / ".venv")
    (home / ".venv").symlink_to("elsewhere")
    assert verified(home) == []


def test_commands_that_are_started_at_once_set_up_once(home: Path) -> None:
    verified(home)
    lose_python(home)
    (home / "made").unlink()
    (home / "installed").unlink()
    with ThreadPoolExecutor(4) as pool:
        printed = list(pool.map(lambda _: verified(home), range(4)))
    assert sorted(len(lines) for lines in printed) == [0, 0, 0, 2]
    assert count(home / "made") == count(home / "installed") == 1


def test_a_dry_run_and_help_change_nothing(home: Path) -> None:
    verified(home)
    lose_python(home)
    for arguments in (["--dry-run", "verify"], ["help"], ["help", "TARGET=verify"]):
        assert make(home, *arguments).returncode == 0
    assert (home / ".venv" / "core.ok").exists()
    assert count(home / "made") == 1


def test_what_the_system_s_python_runs_is_written_for_old_ones(home: Path) -> None:
    """Servers have Python 3.6, macOS has 3.9."""
    ast.parse((ROOT / ".make.py").read_text(), feature_version=(3, 7))
    folder = os.environ.get("PYENV_ROOT", str(Path("~/.pyenv").expanduser()))
    for python in sorted(Path(folder).glob("versions/3.[6-9]*/bin/python3")):
        for arguments, said in (
            (["--list", "verify"], "DATASET "),
            (["--set-up", ".venv/core.ok", "."], "setting up .venv"),
        ):
            command = [str(python), ".make.py", *arguments]
            environment = os.environ | {"PYTHON": "./python"}
            done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{python}: {done.stderr}"
            assert done.stdout.startswith(said)
        shutil.rmtree(home / ".venv")

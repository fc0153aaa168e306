"""The README's commands and code, run as a new user would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.builder_shards import shard_folder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()  # a line may go on in the next
    if line.strip() and not line.startswith("#")
]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_two_commands_do_all_the_set_up() -> None:
    assert COMMANDS[:2] == ["make shards", "make test"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_make_command_names_a_target_that_exists(command: str) -> None:
    words = shlex.split(command)
    if words[0] != "make":
        pytest.skip("no make command")
    dry = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.strip()


def test_help_lists_every_target_that_the_readme_uses() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in shown.splitlines()}
    assert {shlex.split(c)[1] for c in COMMANDS if c.startswith("make ")} <= targets
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets | {"help"}


def test_every_setting_in_the_readme_is_one_the_makefile_reads() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {*re.findall(r"\b([A-Z][A-Z_]{2,})=", README), *re.findall(r"^\| `([A-Z_]{3,})", README, re.MULTILINE)}
    assert len(named) > 8
    assert {name for name in named if f"$({name})" not in makefile} == set()


def test_a_folder_may_have_any_name() -> None:
    name = "it's in $$HOME/a  b"  # make takes $$ for $
    dry = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "plan", f"DATA={name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert name.replace("$$", "$") in shlex.split(dry.stdout.splitlines()[-1])


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_code_runs_on_a_shard_folder(tmp_path: Path, snippet: str) -> None:
    folder = shard_folder(tmp_path / "shards" / "demo")
    tar = next(iter(sorted(folder.glob("*.tar"))))
    tar.rename(folder / "S01-000.tar")
    command = [sys.executable, "-c", snippet]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_commands_run_in_a_clone_with_a_new_environment(tmp_path: Path) -> None:
    """`make shards` as on a fresh machine, then what can be run on the demo corpus alone."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for command in ("make shards", "make verify", "make plan", "make report", "make doctor", "make help"):
        done = subprocess.run(
            shlex.split(command), cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert (clone / "shards" / "demo" / "report.html").is_file()
    shutil.rmtree(clone)

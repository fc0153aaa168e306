"""The commands, code and links of all pages, run and followed as a new user would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from manifests import index
from manifests.kinds import SEQUENCES
from tests.factories.builder_shards import shard_folder
from tests.factories.shards import sign

ROOT = Path(__file__).parent.parent
PACKAGES = ("builder", "manifests", "train")


def _pages() -> dict[str, str]:
    """Path from the root -> text of every tracked page."""
    command = ["git", "ls-files", "-z", "--", "*.md", ":!.github"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_text("utf-8") for name in listed.split("\0") if name}


PAGES = _pages()
TEXT = "\n".join(PAGES.values())
MAKEFILE = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", "")
#: Settings that the Makefile exports to .make.py.
SETTINGS = set(re.findall(r"^SETTINGS := (.*)", MAKEFILE, re.MULTILINE)[0].split())
#: Settings of the developer, not of a command.
INTERNAL = {"PYTHON"}


def _commands(text: str) -> list[str]:
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", "").splitlines()
        if line.strip() and not line.startswith("#")
    ]


COMMANDS = list(dict.fromkeys(_commands(TEXT)))
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with folders `shards/demo` and `shards/demo-sequences` that have a shard S01-000.tar.

    `shards/interviews` are of other speakers.
    """
    folder = tmp_path_factory.mktemp("readme")
    shard_folder(folder / "shards" / "demo", speakers=("S01", "S02", "S03"))
    shard_folder(folder / "shards" / "demo-sequences", speakers=("S01", "S02", "S03"), kind=SEQUENCES)
    others = shard_folder(folder / "shards" / "interviews", speakers=("T01", "T02", "T03"))
    dataset, rows = index.load_dataset(others), index.load_rows(others)
    (others / index.CLIPS_FILE).write_bytes(index.dump_rows([replace(row, sha256="1" * 64) for row in rows]))
    (others / index.DATASET_FILE).write_bytes(index.dump_dataset(replace(dataset, dataset="interviews")))
    sign(others)
    return folder


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _dry_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(["make", "--dry-run", "--no-print-directory", *arguments], ROOT)


def test_the_main_page_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_the_first_two_commands_do_all_the_set_up() -> None:
    assert _commands(PAGES["README.md"])[:2] == ["make shards", "make test"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_short_page_that_links_to_its_further_ones(package: str) -> None:
    name = f"{package}/README.md"
    assert len(PAGES[name].splitlines()) <= 130
    further = {page for page in PAGES if page.startswith(f"{package}/docs/")}
    listed = PAGES[name].partition("\n## Further pages\n")[2]
    assert {f"{package}/{link}" for link in re.findall(r"^- \[.*?\]\((.*?)\): ", listed, re.MULTILINE)} == further


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, demo: Path) -> None:
    """Targets of make as a dry run, Python for real on a folder of shards."""
    program, *arguments = shlex.split(command)
    if program == "make":
        done = _dry_run(*arguments)
    else:
        assert program == "python"
        done = _run([sys.executable, *arguments], demo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_lists_every_target_that_the_pages_use() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in shown.splitlines()}
    assert {shlex.split(c)[1] for c in COMMANDS if c.startswith("make ")} <= targets
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= targets | {"help"}


def _settings_in_pages() -> set[str]:
    tables = {
        name
        for row in re.findall(r"^\| (`[A-Z].*?) \|", TEXT, re.MULTILINE)
        for name in re.findall(r"`([A-Z][A-Z_]+)(?:=1)?`", row)
    }
    return {*re.findall(r"\b([A-Z][A-Z_]+)=", re.sub(r"DASK_\w+", "", TEXT)), *tables}


def test_every_setting_in_the_pages_is_one_the_makefile_reads() -> None:
    named = _settings_in_pages()
    assert len(named) > 8
    assert named <= SETTINGS


def test_every_setting_that_the_makefile_reads_is_in_a_page_and_exported() -> None:
    recipes = MAKEFILE.partition("SETTINGS := ")[2].partition("\n")[2]
    read = set(
        re.findall(r"[=:+(\s]([A-Z][A-Z_]+)(?=[\s,)]|$)", re.sub(r"#.*|^[A-Z].*:=", "", recipes, flags=re.MULTILINE))
    )
    own = set(re.findall(r"^([A-Z][A-Z_]+) *:?=", MAKEFILE, re.MULTILINE))
    assert SETTINGS - {"PYTHON"} <= read
    assert read - own <= SETTINGS
    assert _settings_in_pages() >= SETTINGS - INTERNAL


def _prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _prose(text), re.MULTILINE)
    names = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {f"{name}-{again}" if (again := names[:i].count(name)) else name for i, name in enumerate(names)}


def test_anchors_are_those_of_github() -> None:
    page = "# A page: its `--set`\n```sh\n# no heading\n```\n## Twice\n## Twice\n"
    assert _anchors(page) == {"a-page-its---set", "twice", "twice-1"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)(.*?)\)", _prose(PAGES[page]))
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_code_runs_on_a_shard_folder(demo: Path, snippet: str) -> None:
    done = _run([sys.executable, "-c", snippet], demo)
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

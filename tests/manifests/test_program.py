"""The console command: one name for the commands of three packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from manifests import program
from manifests.errors import install_command
from tests.factories.shards import make_folder

ROOT = Path(__file__).parent.parent.parent
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from manifests.program import main; main()"


@pytest.mark.parametrize("package", program.COMMANDS)
def test_every_command_exists(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, inner in program.COMMANDS[package].items():
        with pytest.raises(SystemExit) as end:
            program.run([name, "--help"])
        assert end.value.code == 0
        assert f"{package} {inner} [" in capsys.readouterr().out


def test_a_file_of_the_user_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit('mine')\n")
    (tmp_path / "manifests.py").write_text("raise SystemExit('mine')\n")
    make_folder(tmp_path / "shards")
    for command, said in ((["verify", "shards"], "complete: 16 samples"), (["recipes"], "finetune")):
        done = subprocess.run(
            [sys.executable, "-P", "-c", START, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


@pytest.mark.parametrize(
    ("package", "command", "missing", "extra"),
    [
        ("manifests", "verify", "simplejpeg", ""),
        ("builder", "plan", "av", "builder"),
        ("train", "recipes", "torch", "train"),
        ("train", "results", "matplotlib", "train"),
    ],
)
@pytest.mark.parametrize("module", [True, False], ids=["module", "program"])
def test_what_is_not_installed_is_one_line(
    tmp_path: Path, package: str, command: str, missing: str, extra: str, module: bool
) -> None:
    start = f"import runpy; runpy.run_module({package!r}, run_name='__main__')" if module else START
    inner = program.COMMANDS[package][command] if module else command
    script = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.fakes.blocked_imports import block_imports\nblock_imports({missing!r})\n"
        f"sys.argv = ['x', {inner!r}]\n{start}\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    more = ", then pip install --no-deps mediapipe" if package == "builder" else ""
    assert done.stderr == f"error: {missing} is not installed; {install_command(extra)}{more}\n"


def test_a_dataset_without_torch_says_what_to_install() -> None:
    script = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.fakes.blocked_imports import block_imports\nblock_imports('torch')\n"
        "from train import ShardDataset\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: torch is not installed; {install_command('train')}"


def test_a_checkout_that_is_not_installed_installs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("s3") in ("pip install 'multimae-der[s3]'", "pip install '.[s3]'")

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    assert (install_command("s3"), install_command()) == ("pip install '.[s3]'", "pip install .")


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["trian"]) == 2
    assert "unknown command 'trian'; valid are build, plan" in capsys.readouterr().err
    assert program.run([]) == 0
    assert "train, sweep, results" in capsys.readouterr().out

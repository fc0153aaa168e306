"""The console command: one name for the commands of three packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manifests import program
from tests.factories.shards import make_folder

ROOT = Path(__file__).parent.parent.parent
START = f"import sys; sys.path.append({str(ROOT)!r}); from manifests.program import main; main()"


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


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(program, "import_module", missing)
    assert program.run(["train"]) == 2
    assert capsys.readouterr().err == "error: torch is not installed; pip install 'multimae-der[train]'\n"


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["trian"]) == 2
    assert "unknown command 'trian'; valid are build, plan" in capsys.readouterr().err
    assert program.run([]) == 0
    assert "train, sweep, results" in capsys.readouterr().out

"""One Ctrl-C, or SIGTERM or SIGHUP where files are temporary, ends a command at once and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.factories.small_trainings import make_trainer
from train import cli
from train.trainer import Stopped

ROOT = Path(__file__).parents[2]
#: Of a command that waits: far less than any timeout of a transfer.
AT_ONCE_SECONDS = 10.0
#: Stands for the builder: says that it runs, and its worker writes faces until both are ended.
BUILDER = """
import os, pathlib, subprocess, sys, time
out = pathlib.Path(next(word for word in sys.argv if word.startswith("--out=")).removeprefix("--out="))
out.mkdir()
(out / "faces.jpg").write_bytes(b"a face")
pathlib.Path(os.environ["STARTED"]).write_text(f"{os.getpid()} {out}")
time.sleep(600)
"""


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("signals") / "runs"
    options = ("--encoder", "tiny", "--recipe", "tiny", "--epochs", "1", "--fold", "anna")
    assert cli.run(["train", "--shards", str(shards), "--runs", str(runs), *options]) == 0
    return runs / "folder" / "cfas" / "fold-anna"


@contextmanager
def started(*arguments: str, cwd: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a program of its own."""
    paths = [str(cwd), str(ROOT), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-m", "train", *arguments]
    process = subprocess.Popen(command, cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def ended_at_once(process: subprocess.Popen[str], number: int) -> str:
    """What a command says when it is ended by one signal, in time."""
    process.send_signal(number)
    _, said = process.communicate(timeout=AT_ONCE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in said
    return said


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_predict_takes_its_builder_and_its_faces_with_it(run: Path, tmp_path: Path, number: int) -> None:
    for package in ("manifests", "train"):  # the builder is the one beside them
        (tmp_path / package).symlink_to(Path(__file__).parents[2] / package)
    (tmp_path / "builder").mkdir()
    (tmp_path / "builder" / "__init__.py").touch()
    (tmp_path / "builder" / "__main__.py").write_text(BUILDER)
    (tmp_path / "clip.mp4").write_bytes(b"media")
    (tmp_path / "temporary").mkdir()
    state = tmp_path / "started"
    where = {"STARTED": str(state), "TMPDIR": str(tmp_path / "temporary")}
    with started("predict", "--run", str(run), "clip.mp4", cwd=tmp_path, **where) as process:
        wait_until(lambda: state.is_file() and state.read_text())
        builder = int(state.read_text().split()[0])
        ended_at_once(process, number)
    wait_until(lambda: not is_running(builder), AT_ONCE_SECONDS)
    assert not list((tmp_path / "temporary").glob("predict-*"))


@pytest.fixture
def silent_server(shards: Path) -> Iterator[tuple[str, threading.Event]]:
    """A server that sends the small files of a folder and of every tar only the beginning; an event is set by then."""
    reached, over = threading.Event(), threading.Event()

    def serve(client: socket.socket) -> None:
        with client:
            request = client.recv(65536).decode()
            method, name = request.split()[:2]
            path = shards / name.lstrip("/")
            if not path.is_file():
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            data = path.read_bytes()
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode())
            if path.suffix == ".tar" and method == "GET":
                client.sendall(data[:1])
                reached.set()
                over.wait(60)
            elif method == "GET":
                client.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while not over.is_set():
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", reached
        over.set()


@pytest.mark.parametrize("command", ["train", pytest.param("sweep", marks=pytest.mark.slow), "predict"])
def test_one_ctrl_c_ends_the_wait_for_a_shard(
    command: str, run: Path, silent_server: tuple[str, threading.Event], tmp_path: Path
) -> None:
    address, reached = silent_server
    options = ["--runs", str(tmp_path / "runs"), "--encoder", "tiny", "--recipe", "tiny"]
    arguments = ["--run", str(run)] if command == "predict" else options
    with started(command, "--shards", address, *arguments, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path)) as process:
        wait_until(reached.is_set)
        time.sleep(0.5)
        ended_at_once(process, signal.SIGINT)


def test_ctrl_c_before_anything_is_begun(tmp_path: Path) -> None:
    with started("train", "--shards", "absent", cwd=tmp_path) as process:
        stat = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: "libtorch" in stat.read_text())  # torch is being imported
        ended_at_once(process, signal.SIGINT)


def test_an_interrupted_validation_is_repeated_and_nothing_is_lost(tmp_path: Path) -> None:
    """A signal during a validation ends it at once; the epoch that was trained is not trained again."""
    make_trainer(tmp_path / "whole").fit()
    trainer = make_trainer(tmp_path / "parts")
    validation = trainer.val_loader

    class Interrupting:
        sampler, labels = validation.sampler, validation.labels

        def epoch(self, epoch: int) -> Iterator[object]:
            for batch in validation.epoch(epoch):
                trainer.interrupt()  # as the handler of a signal does
                yield batch

    trainer.val_loader = Interrupting()
    with pytest.raises(Stopped, match="run the same command to resume"):
        trainer.fit()
    trainer.interrupt()  # a step is never interrupted
    resumed = make_trainer(tmp_path / "parts")
    steps: list[int] = []
    resumed.logger.advance = lambda: steps.append(1)
    resumed.fit()
    assert len(steps) == 2 * resumed.steps_per_epoch  # of three epochs
    files = [sorted(path.glob("best-*.safetensors")) for path in (tmp_path / "whole", tmp_path / "parts")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert files[0][-1].read_bytes() == files[1][-1].read_bytes()

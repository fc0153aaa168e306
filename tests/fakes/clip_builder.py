"""A fake builder that needs no face models: each recording is a text file with an order for whoever builds it.

`ok` builds, `crash` ends the worker by a segmentation fault, and so on: the functions below that take a source. A
built clip is a valid sample with its recording's hash in many copies, so equal recordings give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from builder.clip_result import ClipResult, drop_clip, recorded_row
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.worker import Limits, MakeBuilder
from manifests import sequence
from manifests.index import Row, SpectrogramSums
from manifests.kinds import PAIRS
from manifests.schema import Clip, Sample, dump_json, encode, metadata
from manifests.sequence import SequenceSample, encode_frame
from tests.factories.samples import sample, sequence_sample

TAG = "FAKE_BUILD_TAG"


def source(root: Path, name: str, order: str = "ok", **clip: str) -> ClipSource:
    """Write a recording that holds an order. Returns its source."""
    video = root / f"{name}.mp4"
    video.write_text(order, encoding="utf-8")
    return ClipSource(clip=Clip(**{"clip_id": name, "speaker": "S1", "emotion": "happy"} | clip), video=video)


def corpus(root: Path, speakers: Mapping[str, Mapping[str, str]]) -> Path:
    """A `folder` corpus: speaker -> clip name -> order."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["clip,speaker,emotion"]
    for speaker, clips in speakers.items():
        for name, order in clips.items():
            source(root, name, order)
            lines.append(f"{name}.mp4,{speaker},{('happy', 'sad')[len(lines) % 2]}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def builder_of_macos(config: BuildConfig, root: Path) -> FakeBuilder:
    """A builder in a process whose memory cannot be limited."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    resource.setrlimit = refuse
    return FakeBuilder(config, root)


class FakeBuilder:
    """Does as the recording says, then builds it."""

    def __init__(self, config: BuildConfig, root: Path) -> None:
        self._root = root
        self._make = built if config.kind == PAIRS else built_sequence

    def build(self, source: ClipSource) -> ClipResult:
        """The recording's order, e.g. `sleep 0.1`, and its members."""
        order, *arguments = source.video.read_text(encoding="utf-8").split()
        row = recorded_row(source, self._root)
        if order == "drop":
            return drop_clip(row, arguments[0], "as ordered")
        copies = int(arguments[0]) if order == "big" else 40
        if order in ORDERS:
            ORDERS[order](source, *arguments)
        return self._make(row, copies)


class InProcessPool:
    """What `ClipPool` does, without processes."""

    def __init__(self, config: BuildConfig, root: Path, _workers: int, _limits: Limits, make: MakeBuilder) -> None:
        self._builder = make(config, root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, sources: list[ClipSource]) -> Iterator[ClipResult]:
        """Build every source."""
        return map(self._builder.build, sources)


class FakePool(InProcessPool):
    """The same with fake builders, whatever builder is requested."""

    def __init__(self, config: BuildConfig, root: Path, workers: int, limits: Limits, _make: MakeBuilder) -> None:
        super().__init__(config, root, workers, limits, FakeBuilder)


@cache
def _blank() -> tuple[Sample, dict[str, bytes]]:
    """A black and silent sample, and its members."""
    blank = sample(faces=np.zeros((16, 224, 224, 3), np.uint8), audio=np.zeros(100, np.int16), flags=())
    return blank, encode(blank)


@cache
def _blank_sequence() -> SequenceSample:
    """Black and silent, of five frames."""
    black = encode_frame(np.zeros((224, 224, 3), np.uint8))
    silence = np.zeros(100, np.int16)
    return sequence_sample(jpegs=(black,) * 5, audio=silence, face_found=(True,) * 5, flags=())


def built(row: Row, copies: int = 40) -> ClipResult:
    """A clip that has its recording's hash in its description and, repeated, behind the end of its picture."""
    blank, members = _blank()
    digest = _digest(row)
    described = metadata(replace(blank, clip=_clip(row), source={"path": row.source, "sha256": digest.hex()}))
    picture = members["faces.jpg"] + digest.hex().encode() * 2 * copies
    return _built(row, 16, members | {"faces.jpg": picture, "json": dump_json(described).encode()})


def built_sequence(row: Row, copies: int = 40) -> ClipResult:
    """The same as a sequence; the hash is behind the end of the first picture, before another end."""
    blank, digest = _blank_sequence(), _digest(row).hex()
    first, *others = blank.jpegs
    jpegs = (first + digest.encode() * 2 * copies + first[-2:], *others)
    described = replace(blank, clip=_clip(row), source={"path": row.source, "sha256": digest}, jpegs=jpegs)
    return _built(row, len(jpegs), sequence.encode(described))


def _built(row: Row, faces_found: int, members: Mapping[str, bytes]) -> ClipResult:
    numbers = tuple(float(byte) for byte in _digest(row)[:13])
    return ClipResult(
        row=Row(**vars(row) | {"status": "built", "faces_found": faces_found, "sound_sha256": None}),
        members=members,
        statistics={
            f"mfcc_{grid}": SpectrogramSums(count=grid * 224, total=numbers, squares=tuple(x * x for x in numbers))
            for grid in (16, 8)
        },
    )


def _clip(row: Row) -> Clip:
    return Clip(clip_id=row.clip_id, speaker=row.speaker, emotion=row.emotion)


def _digest(row: Row) -> bytes:
    return hashlib.sha256(f"{row.clip_id} {row.sha256}".encode()).digest()


# --- what a recording may order --------------------------------------------------------------------------------


def sleep(source: ClipSource, seconds: str) -> None:
    """Take this long."""
    time.sleep(float(seconds))


def crash(source: ClipSource) -> None:
    """End by a segmentation fault, without a core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def bereave(source: ClipSource) -> None:
    """Kill whoever started the worker."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def leave(source: ClipSource) -> None:
    """End as if all were well."""
    os._exit(0)


def fail(source: ClipSource) -> None:
    """Raise what nobody expects."""
    raise ValueError("as ordered")


def allocate(source: ClipSource, count: str) -> None:
    """Ask for more memory than there is."""
    bytearray(int(count))


def hang(source: ClipSource) -> None:
    """Never come back, and have a child that does not either; its process id is left beside the recording."""
    child = subprocess.Popen(["sleep", "1000"])
    source.video.with_suffix(".child").write_text(str(child.pid))
    if (source.video.parent / "caller").exists():
        call(source)
    child.wait()


def stop(source: ClipSource) -> None:
    """Stand still, deaf to everything but SIGKILL."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stammer(source: ClipSource) -> None:
    """Begin an answer and never finish it."""
    pipe = sys._getframe(2).f_locals["pipe"]  # of `builder.worker.serve`
    os.write(pipe.fileno(), struct.pack("!i", 1000) + b"so many bytes are not to come")
    time.sleep(1000)


def once(source: ClipSource, *order: str) -> None:
    """Do something else, but only the first time."""
    marker = source.video.with_suffix(".once")
    if not marker.exists():
        marker.touch()
        ORDERS[order[0]](source, *order[1:])


def call(source: ClipSource, *order: str) -> None:
    """Write this process's id into the named pipe `caller`, a line, then maybe do something else."""
    with (source.video.parent / "caller").open("a", encoding="utf-8") as pipe:
        pipe.write(f"{os.getpid()}\n")
    if order:
        ORDERS[order[0]](source, *order[1:])


ORDERS: Mapping[str, Callable[..., None]] = {
    f.__name__: f for f in (sleep, crash, bereave, leave, fail, allocate, hang, stop, stammer, once, call)
}


# --- builders that cannot be made ------------------------------------------------------------------------------


def dies_at_start(config: BuildConfig, root: Path) -> FakeBuilder:
    """No worker ever starts."""
    os._exit(7)


def dies_at_first_start(config: BuildConfig, root: Path) -> FakeBuilder:
    """The first worker does not start, the others do."""
    try:
        (root / "started").mkdir()
    except FileExistsError:
        return FakeBuilder(config, root)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def cannot_be_loaded(config: BuildConfig, root: Path) -> FakeBuilder:
    """A library is missing."""
    raise ImportError("libGL.so.1: cannot open shared object file")


def hangs_at_start(config: BuildConfig, root: Path) -> FakeBuilder:
    """Loading never ends."""
    time.sleep(1000)
    raise AssertionError


# --- processes -------------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int, *, zombies: bool = False) -> list[int]:
    """Children of a process: those that live, or with `zombies` also those nobody has waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if int(parent) == pid and (zombies or state not in "ZX"):
            found.append(int(path.parent.name))
    return found


def tagged(tag: str) -> list[int]:
    """Processes that run with `TAG=tag` in the environment they were started in."""
    wanted = f"{TAG}={tag}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environment and is_alive(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


def survivors(pids: list[int], seconds: float = 20.0) -> list[int]:
    """Those of the processes that have not ended after so many seconds; [] as soon as all have."""
    import select

    end = time.monotonic() + seconds
    for pid in pids:
        with _watched(pid) as descriptor:
            if descriptor is not None:
                select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
    return [pid for pid in pids if is_alive(pid)]


@contextmanager
def _watched(pid: int) -> Iterator[Any]:
    """A descriptor that becomes readable when the process ends; None if it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)

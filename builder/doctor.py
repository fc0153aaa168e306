"""Checks whether this machine can build: loads and runs every backend (finding it is not enough), and gives advice.

Imports nothing that needs a package, so that it works where a backend cannot be loaded; each backend runs in a process
of its own, so that even a crash is only a line of the answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from manifests.console import Parser, run_command, say
from manifests.text import pluralize

INSTALL = "run make clean, then the same command again, to set up the environment from scratch"
#: Python code that uses a backend for what the builder needs it for, and prints what it found.
BACKENDS = {
    "numpy, scipy": "import numpy as n, scipy.fft; scipy.fft.rfft(n.ones(512)); "
    "print(n.__version__, scipy.__version__)",
    "opencv (warps)": "import cv2, numpy as n; cv2.warpAffine(n.zeros((9, 9, 3), 'u1'), n.eye(3)[:2], (4, 4)); "
    "print(cv2.__version__)",
    "PyAV (decoding)": "import av; av.CodecContext.create('h264', 'r'); av.CodecContext.create('vp6f', 'r'); "
    "av.CodecContext.create('mp3', 'r'); print(av.__version__)",
    "ffmpeg (demo corpus, second decoder)": "import ffmpeg, imageio_ffmpeg, subprocess as s; "
    "x = imageio_ffmpeg.get_ffmpeg_exe(); "
    "f = ffmpeg.input('testsrc=d=0.1', f='lavfi').output('-', f='null', loglevel='error'); "
    "s.run(f.compile(cmd=x), check=True); "
    "print(s.run([x, '-version'], capture_output=True, text=True).stdout.split(chr(10))[0][:40])",
    "mediapipe (faces)": "from builder.faces import FaceFinder; import skimage.data; "
    "found = FaceFinder().detect(skimage.data.astronaut()); assert len(found) == 1, found; "
    "import mediapipe; print(mediapipe.__version__, '- found the face in a portrait')",
    "simplejpeg (filmstrips)": "from manifests import schema as s; import numpy as n; "
    "s.decode_faces(s.encode_faces(n.zeros((16, 224, 224, 3), 'u1'))); import simplejpeg; print('encodes and decodes')",
    "soundfile (FLAC)": "from manifests import schema as s; import numpy as n; x = n.arange(999, dtype='i2'); "
    "assert (s.decode_audio(s.encode_audio(x)) == x).all(); import soundfile; print(soundfile.__version__)",
    "soxr, librosa (sound)": "import soxr, librosa.filters, numpy as n; "
    "soxr.resample(n.zeros(44100, 'f4'), 44100, 16000); librosa.filters.mel(sr=16000, n_fft=512); "
    "print(soxr.__version__, librosa.__version__)",
    "webdataset (shards)": "import webdataset; print(webdataset.__version__)",
}
#: Loading takes a few seconds; a backend that takes this long never will.
BACKEND_SECONDS = 120.0
WORKER_MEMORY_GB = 0.5
#: Python code that prints the disk space of a corpus's shards; and one that prints what of a corpus is in a folder.
SHARDS_GB = "import sys; from builder.datasets import corpus_named; print(corpus_named(sys.argv[1]).shards_gb)"
SCAN = """import sys; from pathlib import Path; from builder.datasets import corpus_named, scan_corpus
from manifests.errors import UserError
try:
    if corpus_named(sys.argv[1]).make: sys.exit(print("the corpus is made by make shards"))
    scan = scan_corpus(sys.argv[1], Path(sys.argv[2]))
except UserError as error: sys.exit(str(error))
print(len(scan.sources), "clips,", len(scan.missing), "files of the inventory absent")"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    """What to do if it is not ok."""


def examine(dataset: str, data: Path, out: Path) -> Iterator[Check]:
    """Check the machine, every backend, the output folder and the corpus folder."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Check(name="python", ok=supported, found=version, advice="run make clean; make shards PYTHON=python3.11")
    for name, code in BACKENDS.items():
        ok, found = run_python(code, seconds=BACKEND_SECONDS)
        yield Check(name=name, ok=ok, found=found, advice=INSTALL)
    yield _check_memory()
    yield from _check_output(dataset, out)
    ok, found = run_python(SCAN, dataset, str(data))
    yield Check(name="corpus", ok=ok, found=found, advice="name the corpus's folder with DATA=")


def run_python(code: str, *arguments: str, seconds: float = 120.0) -> tuple[bool, str]:
    """Run code in a new process: whether it succeeded, and its last line, or how it ended if it printed none."""
    command = [sys.executable, "-c", code, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:g} s"
    if done.returncode < 0:
        return False, f"crashed ({signal.Signals(-done.returncode).name})"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}, no message"


def _check_memory() -> Check:
    available = available_bytes() / 1e9
    cores = len(os.sched_getaffinity(0))
    needed = WORKER_MEMORY_GB * cores
    return Check(
        name="memory",
        ok=available > needed,
        found=f"{available:.1f} GB free; {pluralize(cores, 'worker')}: about {needed:.1f} GB",
        advice=f"use fewer workers: WORKERS={max(1, int(available / WORKER_MEMORY_GB))}",
    )


def available_bytes() -> int:
    """Memory that programs can use: free, or only caching files."""
    with suppress(OSError, KeyError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_output(dataset: str, out: Path) -> Iterator[Check]:
    """Space and permission where the shards go: the folder itself, or the nearest one above it that exists."""
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    known, printed = run_python(SHARDS_GB, dataset)
    needed = float(printed) if known else 0.0
    free = shutil.disk_usage(existing).free / 1e9
    advice = f"the shards of {dataset} take about {needed:g} GB; make room, or choose another folder with OUT="
    yield Check(name="disk", ok=free > needed, found=f"{free:.1f} GB free for {out}", advice=advice)
    ok = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    found = f"{existing} is {'' if ok else 'not '}a folder that can be written to"
    yield Check(name="output", ok=ok, found=found, advice="choose another folder with OUT=")


def print_checks(args: argparse.Namespace) -> int:
    """Print every check; exit status 0 only if all are ok, else 1."""
    data = args.data or Path("data") / args.dataset
    out = args.out or Path("shards") / args.dataset
    healthy = True
    for check in examine(args.dataset, data, out):
        healthy &= check.ok
        say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
        if not check.ok:
            say(f"      {check.advice}")
    return 0 if healthy else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Check this machine."""
    parser = Parser(prog="python -m builder.doctor", description=__doc__)
    parser.set_defaults(run=print_checks, debug=False)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    return run_command(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())

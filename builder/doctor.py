"""Is this machine fit to build? Loads and runs every backend (finding it is not enough) and says what to do.

Imports nothing of the builder but plain modules, so that it still speaks where a backend cannot be loaded; each backend
runs in a process of its own, so that even a crash is only a line of the answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder import console
from manifests.text import pluralize

INSTALL = "run make clean, then the same command again, to set up the environment anew"
#: Python that uses a backend for what the builder needs it for, and prints what it found.
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
PATIENCE_SECONDS = 120.0
MEMORY_GB_A_WORKER = 0.5
#: Shards of a whole corpus.
DISK_GB = {"demo": 0.1, "ravdess": 2.0, "crema-d": 5.0, "iemocap": 8.0}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    """What to do where it is not well."""


def examine(dataset: str, data: Path, out: Path) -> Iterator[Check]:
    """Look at the machine, every backend, the corpus folder and the output folder."""
    yield _python()
    for name, code in BACKENDS.items():
        yield _backend(name, code)
    yield _memory()
    yield _disk(dataset, out)
    yield _writable(out)
    yield _corpus(dataset, data)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check(name="python", ok=ok, found=version, advice="run make clean; make shards PYTHON=python3.11")


def _backend(name: str, code: str) -> Check:
    ok, found = _answer([sys.executable, "-c", code])
    return Check(name=name, ok=ok, found=found, advice=INSTALL)


def _answer(command: Sequence[str]) -> tuple[bool, str]:
    """Whether a process did well, and its last line; or how it ended, where it could not say."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PATIENCE_SECONDS:g} s"
    if done.returncode < 0:
        return False, f"crashed ({signal.Signals(-done.returncode).name})"
    words = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, words[-1] if words else f"exit code {done.returncode}, without a word"


def _memory() -> Check:
    available = _available_bytes() / 1e9
    cores = len(os.sched_getaffinity(0))
    needed = MEMORY_GB_A_WORKER * cores
    return Check(
        name="memory",
        ok=available > needed,
        found=f"{available:.1f} GB free; {pluralize(cores, 'worker')}: about {needed:.1f} GB",
        advice=f"use fewer workers: WORKERS={max(1, int(available / MEMORY_GB_A_WORKER))}",
    )


def _available_bytes() -> int:
    """Memory that programs can have: free, or only caching files."""
    with suppress(OSError, KeyError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _disk(dataset: str, out: Path) -> Check:
    needed = DISK_GB.get(dataset, 0.0)
    free = shutil.disk_usage(_existing(out)).free / 1e9
    advice = f"the shards of {dataset} take about {needed:g} GB; make room, or choose another folder with OUT="
    return Check(name="disk", ok=free > needed, found=f"{free:.1f} GB free for {out}", advice=advice)


def _writable(out: Path) -> Check:
    home = _existing(out)
    ok = home.is_dir() and os.access(home, os.W_OK | os.X_OK)
    found = f"{home} is {'' if ok else 'not '}a folder that can be written to"
    return Check(name="output", ok=ok, found=found, advice="choose another folder with OUT=")


def _corpus(dataset: str, data: Path) -> Check:
    """Runs the scan in a process too: it imports the corpora, hence the backends."""
    if dataset == "demo":
        return Check(name="corpus", ok=True, found="the demo corpus is made by make shards")
    code = (
        "import sys; from pathlib import Path; from builder.datasets import scan_corpus\n"
        "try: scan = scan_corpus(sys.argv[1], Path(sys.argv[2]))\n"
        "except ValueError as error: sys.exit(str(error))\n"
        "print(len(scan.sources), 'clips,', len(scan.missing), 'files of the inventory absent')"
    )
    command = [sys.executable, "-c", code, dataset, str(data)]
    ok, found = _answer(command)
    return Check(name="corpus", ok=ok, found=found, advice="name the corpus's folder with DATA=")


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every check; exit status 0 only if all are well."""
    parser = console.Parser(prog="python -m builder.doctor", description=__doc__)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    data = options.data or Path("data") / options.dataset
    out = options.out or Path("shards") / options.dataset
    healthy = True
    for check in examine(options.dataset, data, out):
        healthy &= check.ok
        sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}\n")
        if not check.ok:
            sys.stdout.write(f"      {check.advice}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())

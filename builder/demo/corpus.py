"""Writes the demo corpus: renders each take once, encodes its clips as H.264/AAC in MP4, keeps a manifest.

    <root>/S01/S01_happy_01.mp4 ...     134 clips, about 2 s each
    <root>/demo.json                    version and labels; `complete` only when every clip is there

A clip appears under its name whole or not at all, and the manifest says `complete` last: an interrupted run is
finished by the next one, and clips of another version are made anew.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import cv2
import ffmpeg
import imageio_ffmpeg
import soundfile

from builder.datasets.base import CorpusError
from builder.demo import face, plan, voice
from builder.demo.plan import FPS, Expression, Utterance
from manifests.files import atomic_write, exclusive_lock, remove_leftovers

Progress = Callable[[int, int], None]

MANIFEST = "demo.json"
#: How much of its file a cut clip keeps: the index and about half of the pictures.
_CUT_AT = 0.6
_BYSTANDER = "S07"
#: The same input gives the same bytes: no encoder names, no threads.
_EXACT = {"fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact", "threads": 1}


def make_demo(
    root: Path,
    *,
    utterances: Sequence[Utterance] = plan.inventory(),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the demo corpus in `root`, or what is missing of it; return at once if it is complete. Returns `root`.

    `workers` processes render, one a core by default; 1 renders in this process. `progress(done, total)` is called
    after every take with numbers of clips. The same machine makes the same bytes. Raises CorpusError if a clip
    cannot be made, FolderError if another process is at it or the folder cannot be written, OSError on a full disk.
    """
    if _is_complete(root, utterances):
        return root
    with exclusive_lock(root):
        remove_leftovers(root)
        finished = _finished(root, utterances)
        todo = [u for u in utterances if u not in finished]
        _write_manifest(root, utterances, complete=False)
        _write_clips(root, todo, workers or os.cpu_count() or 1, _counter(len(finished), len(utterances), progress))
        _write_manifest(root, utterances, complete=True)
    return root


def _is_complete(root: Path, utterances: Sequence[Utterance]) -> bool:
    return bool(_read_manifest(root).get("complete")) and _finished(root, utterances) == set(utterances)


def _finished(root: Path, utterances: Sequence[Utterance]) -> set[Utterance]:
    """Clips of this version that are there already; what another version left is no such clip."""
    manifest = _read_manifest(root)
    if manifest.get("version") != plan.VERSION:
        return set()
    sizes = {path: clip.get("bytes") for path, clip in manifest["clips"].items()}
    return {u for u in utterances if _is_whole(root / u.path, sizes.get(u.path))}


def _is_whole(clip: Path, size: int | None) -> bool:
    """Publishing makes a clip whole or absent; its size is known once the corpus was complete."""
    found = clip.stat().st_size if clip.is_file() else 0
    return found > 0 if size is None else found == size


def _counter(done: int, total: int, progress: Progress | None) -> Callable[[int], None]:
    """What to call with the number of clips a take added."""

    def count(clips: int) -> None:
        nonlocal done
        done += clips
        if progress:
            progress(done, total)

    return count


def _write_clips(root: Path, utterances: Sequence[Utterance], workers: int, count: Callable[[int], None]) -> None:
    takes = _takes(utterances)
    if workers == 1 or len(takes) < 2:
        for take in takes:
            count(write_take(root, take))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(takes)), mp_context=spawn, initializer=_begin_worker) as pool:
        try:
            for job in as_completed([pool.submit(write_take, root, take) for take in takes]):
                count(job.result())
        except BrokenProcessPool as error:
            raise CorpusError(f"{root}: a process that made clips was killed; is there memory? run it again") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # without it, leaving the block would make all the other clips first
            raise


def _takes(utterances: Sequence[Utterance]) -> list[tuple[Utterance, ...]]:
    """Clips by speaker and take: they share pictures and sounds."""

    def take(utterance: Utterance) -> tuple[str, int]:
        return utterance.speaker, utterance.take

    return [tuple(group) for _, group in groupby(sorted(utterances, key=take), key=take)]


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)  # a process a core: more threads would only wait for each other
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def write_take(root: Path, utterances: Sequence[Utterance]) -> int:
    """Write clips of one take of one speaker; returns how many. Each picture and sound is made once."""
    with tempfile.TemporaryDirectory(prefix="demo-") as workshop:
        for utterance in utterances:
            picture = _picture(Path(workshop), utterance)
            sound = _sound(Path(workshop), utterance)
            clip = _join(picture, sound, Path(workshop, "clip.mp4"))
            if utterance.defect == "cut":
                os.truncate(clip, _packet_end(clip, _CUT_AT))
            (root / utterance.speaker).mkdir(exist_ok=True)
            atomic_write(root / utterance.path, clip.read_bytes())
    return len(utterances)


def _picture(workshop: Path, utterance: Utterance) -> Path:
    """Encoded frames of an utterance, made unless they are in the workshop already."""
    expression, _ = plan.EMOTIONS[utterance.emotion]
    scene = utterance.defect if utterance.defect in ("crowd", "noface") else "alone"
    path = workshop / f"{scene}-{expression}.mp4"
    if not path.exists():
        _encode(b"".join(frame.tobytes() for frame in _frames(utterance, expression)), path)
    return path


def _frames(utterance: Utterance, expression: Expression) -> Iterator[face.Image]:
    who, number = utterance.speaker, utterance.take
    take, picture = plan.draw_take(who, number), plan.draw_picture(who, number, expression)
    if utterance.defect == "noface":
        return face.render_empty(who, take)
    if utterance.defect == "crowd":
        return face.render_crowd(who, _BYSTANDER, take, expression, picture)
    return face.render(who, take, expression, picture)


def _sound(workshop: Path, utterance: Utterance) -> Path:
    """WAV of an utterance, made unless it is in the workshop already."""
    _, manner = plan.EMOTIONS[utterance.emotion]
    silent = utterance.defect == "silent"
    path = workshop / f"{'silence' if silent else manner}.wav"
    if not path.exists():
        who, number = utterance.speaker, utterance.take
        take, drawn = plan.draw_take(who, number), plan.draw_voice(who, number, manner)
        soundfile.write(path, voice.silence(take) if silent else voice.speak(who, take, manner, drawn), voice.RATE_HZ)
    return path


def _encode(frames: bytes, path: Path) -> None:
    """Raw RGB frames -> H.264."""
    width, height = face.FRAME_PX
    raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(FPS))
    look = {"vcodec": "libx264", "preset": "superfast", "crf": 19, "pix_fmt": "yuv420p", "fps_mode": "cfr"}
    _run(ffmpeg.output(raw, str(path), **look, **_EXACT), frames)


def _join(picture: Path, sound: Path, path: Path) -> Path:
    """Encoded picture and WAV -> MP4 with its index in front."""
    streams = ffmpeg.input(str(picture)).video, ffmpeg.input(str(sound)).audio
    codecs = {"vcodec": "copy", "acodec": "aac", "audio_bitrate": "96k"}
    _run(ffmpeg.output(*streams, str(path), **codecs, movflags="+faststart", **_EXACT))
    return path


def _run(job: Any, pipe: bytes | None = None) -> None:
    try:
        job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=pipe, quiet=True, overwrite_output=True)
    except ffmpeg.Error as error:
        words = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise CorpusError(f"demo corpus: ffmpeg could not encode a clip: {words[-1]}") from error


def _packet_end(path: Path, share: float) -> int:
    """Byte at which a packet ends, about that share of the file in: cut there, a decoder sees no damage."""
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.pos is not None]
    size = path.stat().st_size
    return min(ends, key=lambda end: abs(end - share * size))


def _read_manifest(root: Path) -> dict[str, Any]:
    """The manifest, or nothing if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and isinstance(manifest.get("clips"), dict):
            return manifest
    return {}


def _write_manifest(root: Path, utterances: Sequence[Utterance], *, complete: bool) -> None:
    clips = {u.path: _describe(u) | ({"bytes": (root / u.path).stat().st_size} if complete else {}) for u in utterances}
    manifest = {"version": plan.VERSION, "complete": complete, "clips": clips}
    atomic_write(root / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


def _describe(utterance: Utterance) -> dict[str, Any]:
    expression, manner = plan.EMOTIONS[utterance.emotion]
    return {
        "speaker": utterance.speaker,
        "emotion": utterance.emotion,
        "expression": expression,
        "voice": manner,
        "take": utterance.take,
        "defect": utterance.defect,
    }

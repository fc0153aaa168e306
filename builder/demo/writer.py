"""Writes the demo corpus: renders each take once, encodes its clips as H.264/AAC in MP4, and writes a manifest.

    <root>/S01/S01_happy_01.mp4 ...     134 clips, about 2 s each
    <root>/demo.json                    version and labels; `complete` only when every clip exists

Clips are written atomically, and the manifest is marked `complete` last: the next run resumes an interrupted one, and
renders clips of another version again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
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
from builder.datasets.checks import read_table
from builder.demo import face, utterances, voice
from builder.demo.utterances import FPS, MANIFEST, Expression, Utterance
from builder.worker import end_with_parent
from manifests.files import atomic_write, exclusive_lock, remove_leftovers

#: Fraction of the file that remains of a cut clip: the index and about half of the frames.
_CUT_AT = 0.6
_BYSTANDER = "S07"
#: Deterministic output: no encoder names, no threads.
_EXACT = {"fflags": "+bitexact", "flags:v": "+bitexact", "flags:a": "+bitexact", "threads": 1}


def make_demo(
    root: Path,
    *,
    clips: Sequence[Utterance] = utterances.list_utterances(),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Generate the missing clips of the demo corpus in `root`. Returns `root`.

    Rendering uses `workers` processes, by default one per core; with 1 it runs in this process. `progress(done,
    total)` is called after every take with numbers of clips. Output is deterministic on a machine. Raises CorpusError
    if a clip cannot be rendered, FolderError if the folder is locked or cannot be written, OSError on a full disk.
    """
    if _read_manifest(root).get("complete") and _find_finished(root, clips) == set(clips):
        return root
    with exclusive_lock(root):
        remove_leftovers(root)
        finished = _find_finished(root, clips)
        _write_manifest(root, clips, complete=False)
        done, missing = len(finished), [u for u in clips if u not in finished]
        with contextlib.closing(_write_takes(root, missing, workers or os.cpu_count() or 1)) as takes:
            for added in takes:
                done += added
                if progress:
                    progress(done, len(clips))
        _write_manifest(root, clips, complete=True)
    return root


def _find_finished(root: Path, clips: Sequence[Utterance]) -> set[Utterance]:
    """Clips of this version that exist. Sizes are checked if the manifest has them, that is, if it was complete."""
    manifest = _read_manifest(root)
    if manifest.get("version") != utterances.VERSION:
        return set()
    finished = set()
    for utterance in clips:
        path = root / utterance.path
        found = path.stat().st_size if path.is_file() else 0
        if found and found == manifest["clips"].get(utterance.path, {}).get("bytes", found):
            finished.add(utterance)
    return finished


def _write_takes(root: Path, clips: Sequence[Utterance], workers: int) -> Generator[int, None, None]:
    """Write clips take by take, in `workers` processes; yields the number of clips of each finished take."""

    def take_key(utterance: Utterance) -> tuple[str, int]:
        return utterance.speaker, utterance.take

    takes = [tuple(group) for _, group in groupby(sorted(clips, key=take_key), key=take_key)]
    if workers == 1 or len(takes) < 2:
        for take in takes:
            yield write_take(root, take)
        return
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="demo-") as folder,
        ProcessPoolExecutor(min(workers, len(takes)), spawn, init_worker, (folder,)) as pool,
    ):
        try:
            for job in as_completed([pool.submit(write_take, root, take) for take in takes]):
                yield job.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                f"{root}: a process that rendered clips was killed; check the free memory and run it again"
            ) from error
        except BaseException:
            for worker in multiprocessing.active_children():  # rendering a take takes seconds
                worker.kill()
            pool.shutdown(cancel_futures=True)
            raise


def init_worker(folder: str) -> None:
    """Prepare a worker process: Ctrl-C is handled by the parent, which kills its workers and removes `folder`.

    The worker's temporary files are in that folder. It exits with its parent.
    """
    tempfile.tempdir = folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # a process per core: more threads would compete for the cores
    end_with_parent()


def write_take(root: Path, clips: Sequence[Utterance]) -> int:
    """Write clips of one take of one speaker; returns how many. Each video and sound is rendered once."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        folder = Path(name)
        for utterance in clips:
            clip = folder / "clip.mp4"
            streams = (
                ffmpeg.input(str(_render_video(folder, utterance))).video,
                ffmpeg.input(str(_render_sound(folder, utterance))).audio,
            )
            codecs = {"vcodec": "copy", "acodec": "aac", "audio_bitrate": "96k"}
            _run(ffmpeg.output(*streams, str(clip), **codecs, movflags="+faststart", **_EXACT))
            if utterance.defect == "cut":
                os.truncate(clip, _packet_end(clip, _CUT_AT))
            (root / utterance.speaker).mkdir(exist_ok=True)
            atomic_write(root / utterance.path, clip.read_bytes())
    return len(clips)


def _render_video(folder: Path, utterance: Utterance) -> Path:
    """Render an utterance's frames as H.264, unless the folder has them already."""
    expression, _ = utterances.EMOTIONS[utterance.emotion]
    scene = utterance.defect if utterance.defect in ("crowd", "noface") else "alone"
    path = folder / f"{scene}-{expression}.mp4"
    if not path.exists():
        width, height = face.FRAME_PX
        raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(FPS))
        codec = {"vcodec": "libx264", "preset": "superfast", "crf": 19, "pix_fmt": "yuv420p", "fps_mode": "cfr"}
        frames = b"".join(frame.tobytes() for frame in _render_frames(utterance, expression))
        _run(ffmpeg.output(raw, str(path), **codec, **_EXACT), frames)
    return path


def _render_frames(utterance: Utterance, expression: Expression) -> Iterator[face.Image]:
    speaker, take = utterance.speaker, utterances.sample_take(utterance.speaker, utterance.take)
    motion = utterances.sample_face_motion(speaker, utterance.take, expression)
    if utterance.defect == "noface":
        return face.render_empty(speaker, take)
    if utterance.defect == "crowd":
        return face.render_crowd(speaker, _BYSTANDER, take, expression, motion)
    return face.render_frames(speaker, take, expression, motion)


def _render_sound(folder: Path, utterance: Utterance) -> Path:
    """Synthesize the WAV of an utterance, unless the folder has it already."""
    _, style = utterances.EMOTIONS[utterance.emotion]
    silent = utterance.defect == "silent"
    path = folder / f"{'silence' if silent else style}.wav"
    if not path.exists():
        speaker, take = utterance.speaker, utterances.sample_take(utterance.speaker, utterance.take)
        speech = utterances.sample_speech(speaker, utterance.take, style)
        samples = voice.synthesize_silence(take) if silent else voice.synthesize_speech(speaker, take, style, speech)
        soundfile.write(path, samples, voice.RATE_HZ)
    return path


def _run(job: Any, pipe: bytes | None = None) -> None:
    try:
        job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=pipe, quiet=True, overwrite_output=True)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise CorpusError(f"demo corpus: ffmpeg could not encode a clip: {lines[-1]}") from error


def _packet_end(path: Path, share: float) -> int:
    """Byte offset of the packet boundary nearest to a fraction of the file: a cut there is not seen as damage."""
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.pos is not None]
    size = path.stat().st_size
    return min(ends, key=lambda end: abs(end - share * size))


def _read_manifest(root: Path) -> dict[str, Any]:
    """The manifest; empty if it does not exist or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads(read_table(root / MANIFEST))
        if isinstance(manifest, dict) and isinstance(manifest.get("clips"), dict):
            return manifest
    return {}


def _write_manifest(root: Path, clips: Sequence[Utterance], *, complete: bool) -> None:
    """Describe every clip; sizes are only written when the corpus is complete."""
    described: dict[str, dict[str, Any]] = {}
    for utterance in clips:
        expression, style = utterances.EMOTIONS[utterance.emotion]
        described[utterance.path] = {
            "speaker": utterance.speaker,
            "emotion": utterance.emotion,
            "expression": expression,
            "voice": style,
            "take": utterance.take,
            "defect": utterance.defect,
        }
        if complete:
            described[utterance.path]["bytes"] = (root / utterance.path).stat().st_size
    manifest = {"version": utterances.VERSION, "complete": complete, "clips": described}
    atomic_write(root / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())

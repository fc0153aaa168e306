"""Reference pipeline that uses the same libraries as their tutorials do; the builder is compared with it.

A sample has the members of the builder's: 16 face crops of 224x224 and 16 MFCC windows of 13x224. The pipeline is not
slowed down on purpose: every frame is decoded once, 16 are processed, JPEG and tar are written by the usual calls.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import librosa
import mediapipe
import numpy as np
import numpy.typing as npt
import webdataset

FACES, SIDE_PX, COLUMNS, RATE_HZ = 16, 224, 224, 16_000
Images = npt.NDArray[np.uint8]


def build(video: Path, sound: Path | None, folder: Path) -> dict[str, Any]:
    """Build one recording into a tar of one sample in `folder` and return the sample."""
    frames = _frames(video)
    crops = _crops([frames[i] for i in np.linspace(0, len(frames) - 1, FACES).astype(int)])
    sample = {f"{i:02d}.jpg": crop for i, crop in enumerate(crops)}
    sample["mfcc.npy"] = _windows(sound or _extracted(video, folder))
    with webdataset.ShardWriter(str(folder / f"{video.stem}-%03d.tar"), verbose=0) as writer:
        writer.write({"__key__": video.stem, **sample})
    return sample


def _frames(video: Path) -> list[Images]:
    capture = cv2.VideoCapture(str(video))
    frames = []
    while True:
        success, frame = capture.read()
        if not success:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    return frames


def _crops(frames: list[Images]) -> list[Images]:
    """The face of each frame, from a square around its mesh; the whole frame where none is found."""
    options = {"static_image_mode": True, "max_num_faces": 1, "refine_landmarks": True}
    with mediapipe.solutions.face_mesh.FaceMesh(**options) as mesh:
        return [_crop(frame, mesh.process(frame).multi_face_landmarks) for frame in frames]


def _crop(frame: Images, meshes: Any) -> Images:
    height, width = frame.shape[:2]
    if meshes:
        points = np.array([(point.x * width, point.y * height) for point in meshes[0].landmark])
        (x, y), half = (points.min(0) + points.max(0)) / 2, 0.625 * np.ptp(points, axis=0).max()
        x0, y0 = (int(max(0, value - half)) for value in (x, y))
        frame = frame[y0 : int(y + half), x0 : int(x + half)]
    return cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def _extracted(video: Path, folder: Path) -> Path:
    """Extract the sound as a WAV file, since librosa cannot open videos."""
    sound = folder / f"{video.stem}.wav"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run(
        [program, "-y", "-loglevel", "error", "-threads", "1", "-i", video, "-vn", "-ac", "1", sound], check=True
    )
    return sound


def _windows(sound: Path) -> npt.NDArray[np.float32]:
    """[16, 13, 224] MFCC of windows that overlap by half."""
    samples, _ = librosa.load(sound, sr=RATE_HZ)
    half = len(samples) // (FACES + 1)
    windows = [samples[i * half : (i + 2) * half] for i in range(FACES)]
    hop = max(1, 2 * half // COLUMNS)
    return np.stack(
        [_fitted(librosa.feature.mfcc(y=p, sr=RATE_HZ, n_mfcc=13, n_fft=512, hop_length=hop)) for p in windows]
    )


def _fitted(mfcc: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return librosa.util.fix_length(mfcc, size=COLUMNS, axis=1)

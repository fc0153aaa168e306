"""Raster images of crops and spectrograms."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from builder.report.axis import Floats, stitch_windows, windows_seconds
from builder.report.shard_reader import ReportFolder, sum_statistics
from manifests.index import ManifestError
from manifests.schema import FRAMES, Sample

RgbImage = npt.NDArray[np.uint8]

THUMBNAIL_PX = 104
_SPECTROGRAM_COLUMNS = 17 * 56  # half of what is stored: 17 steps of 112
_SPECTROGRAM_ROWS = 112
_QUALITY = 75  # WebP: a third of a JPEG's bytes on spectrograms
#: Range of the colours, in standard deviations from the mean.
_LIMIT = 2.5


@dataclass(frozen=True, kw_only=True)
class ColorScale:
    """Range of values that the colours of a feature cover, the same for all clips, so that loudness is comparable."""

    mean: Floats
    """[rows, 1]"""
    deviation: Floats
    """[rows, 1], above 0"""

    def to_gray(self, values: Floats) -> RgbImage:
        """[rows, n] -> [rows, n] in 0..255; NaN becomes 0."""
        scores = np.nan_to_num((values - self.mean) / self.deviation, nan=-_LIMIT)
        return np.clip(np.rint((scores + _LIMIT) / (2 * _LIMIT) * 255), 0, 255).astype(np.uint8)


def color_scales(build: ReportFolder) -> dict[str, ColorScale]:
    """Feature -> scale over all shards: shared by all rows in dB, separate for each cepstral coefficient.

    Raises ManifestError for receipts that cannot be read, or without the statistics of a feature.
    """
    sums = sum_statistics(build)
    scales = {}
    for feature in build.dataset.features:
        found = sums.get(f"{feature}_{FRAMES}")
        if found is not None:
            mean, squares = (np.array(values)[:, None] / found.count for values in (found.total, found.squares))
            if feature != "mfcc":
                mean, squares = (np.full_like(values, values.mean()) for values in (mean, squares))
            scales[feature] = ColorScale(mean=mean, deviation=np.sqrt(np.maximum(squares - mean**2, 1e-6)))
        elif build.dataset.shards:
            name = f"{feature}_{FRAMES}"
            raise ManifestError(f"{build.folder}: found no statistics of {name} in the receipts; build it again")
    return scales


def thumbnail(face: RgbImage) -> RgbImage:
    """[224, 224, 3] crop -> [104, 104, 3]."""
    return cv2.resize(face, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA).astype(np.uint8)


def spectrogram_image(sample: Sample, feature: str, scale: ColorScale, columns: int = _SPECTROGRAM_COLUMNS) -> RgbImage:
    """[about 112, columns, 3] from the first window's start to the last one's end, low frequencies at the bottom.

    If there are few rows they are repeated, which keeps their edges sharp; many are averaged.
    """
    start, end = windows_seconds(sample.timing)
    centres = start + (np.arange(columns) + 0.5) * (end - start) / columns
    gray = scale.to_gray(stitch_windows(sample.spectrograms[f"{feature}_{FRAMES}"], sample.timing, centres))[::-1]
    if len(gray) < _SPECTROGRAM_ROWS:
        gray = np.repeat(gray, _SPECTROGRAM_ROWS // len(gray), axis=0)
    else:
        gray = cv2.resize(gray, (columns, _SPECTROGRAM_ROWS), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB).astype(np.uint8)


def mean_face(samples: Iterable[Sample]) -> RgbImage | None:
    """[224, 224, 3] mean of all crops with a detected face; None if there are none."""
    faces = [face for sample in samples for face, found in zip(sample.faces, sample.face_found, strict=True) if found]
    if not faces:
        return None
    return np.rint(np.mean(faces, axis=0, dtype=np.float64)).astype(np.uint8)


def data_uri(image: RgbImage) -> str:
    """[h, w, 3] RGB -> a `data:` URI that contains the image as WebP."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1]
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()

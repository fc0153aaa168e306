"""Small pictures of crops and spectrograms."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from builder.report.axis import Floats, continuous, windows_seconds
from builder.report.contents import Contents, statistics
from manifests.index import ManifestError, Statistics
from manifests.schema import FRAMES, Sample

Picture = npt.NDArray[np.uint8]

THUMBNAIL_PX = 104
_SPECTROGRAM_COLUMNS = 17 * 56  # half of what is stored: 17 steps of 112
_SPECTROGRAM_ROWS = 112
_QUALITY = 75  # WebP: a third of a JPEG's bytes on spectrograms
#: Standard deviations from the mean at which the colours end.
_REACH = 2.5


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where a feature's colours begin and end: one scale for all clips, so that loud and soft can be told apart."""

    mean: Floats
    """[rows, 1]"""
    deviation: Floats
    """[rows, 1], above 0"""

    def shades(self, values: Floats) -> Picture:
        """[rows, n] -> 0..255; no value is shown as the lowest."""
        scores = (values - self.mean) / self.deviation
        shades = (np.nan_to_num(scores, nan=-_REACH) + _REACH) / (2 * _REACH) * 255
        return np.clip(np.rint(shades), 0, 255).astype(np.uint8)


def scales(contents: Contents) -> dict[str, Scale]:
    """Feature -> scale over all shards: one for all rows in dB, one for each cepstral coefficient.

    Raises ManifestError for receipts that cannot be read, or do not tell.
    """
    sums = statistics(contents)
    named = {feature: f"{feature}_{FRAMES}" for feature in contents.dataset.features}
    untold = sorted(set(named.values()) - sums.keys())
    if untold and contents.dataset.shards:
        raise ManifestError(f"{contents.folder}: found no statistics of {untold[0]} in the receipts; build it again")
    return {feature: _scale(sums[name], feature) for feature, name in named.items() if name in sums}


def _scale(sums: Statistics, feature: str) -> Scale:
    mean, squares = (np.array(values)[:, None] / sums.count for values in (sums.total, sums.squares))
    if feature != "mfcc":
        mean, squares = (np.full_like(values, values.mean()) for values in (mean, squares))
    return Scale(mean=mean, deviation=np.sqrt(np.maximum(squares - mean**2, 1e-6)))


def thumbnails(sample: Sample, side_px: int = THUMBNAIL_PX) -> Picture:
    """[side, 16 side, 3] the 16 crops side by side."""
    small = [cv2.resize(face, (side_px, side_px), interpolation=cv2.INTER_AREA) for face in sample.faces]
    return np.hstack(small).astype(np.uint8)


def spectrogram(sample: Sample, feature: str, scale: Scale, columns: int = _SPECTROGRAM_COLUMNS) -> Picture:
    """[rows, columns, 3] from the first window's start to the last one's end, low frequencies at the bottom."""
    start, end = windows_seconds(sample.timing)
    centres = start + (np.arange(columns) + 0.5) * (end - start) / columns
    shades = scale.shades(continuous(sample.spectrograms[f"{feature}_{FRAMES}"], sample.timing, centres))[::-1]
    coloured = cv2.applyColorMap(_of_height(shades), cv2.COLORMAP_MAGMA)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB).astype(np.uint8)


def _of_height(shades: Picture) -> Picture:
    """[rows, n] -> about 112 rows: few rows are repeated, so that each keeps its edges; many are averaged."""
    rows, columns = shades.shape
    if rows < _SPECTROGRAM_ROWS:
        return np.repeat(shades, _SPECTROGRAM_ROWS // rows, axis=0)
    return cv2.resize(shades, (columns, _SPECTROGRAM_ROWS), interpolation=cv2.INTER_AREA).astype(np.uint8)


def mean_face(samples: Iterable[Sample]) -> Picture | None:
    """[224, 224, 3] mean of all crops in which a face was found; None where there is none."""
    faces = [face for sample in samples for face, found in zip(sample.faces, sample.face_found, strict=True) if found]
    if not faces:
        return None
    return np.rint(np.mean(faces, axis=0, dtype=np.float64)).astype(np.uint8)


def data_uri(picture: Picture) -> str:
    """[h, w, 3] RGB -> the picture itself as an address."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1]
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()

"""Which windows of a clip have any sound. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manifests.schema import FRAMES, GRIDS, SAMPLE_RATE_HZ
from manifests.timeline import Seconds, Timeline

#: Root mean square, relative to full scale, below which sound counts as silent (-80 dB).
SILENCE_RMS = 1e-4


def sound_present(
    audio: npt.NDArray[np.int16], audio_start_seconds: float, timeline: Timeline
) -> dict[str, npt.NDArray[np.bool_]]:
    """Grid (`16`, `8`) -> [grid] whether a window has any sound: its root mean square is at least SILENCE_RMS.

    Sound outside the recording is silence. `audio` is [n] mono at 16 kHz, its first sample at `audio_start_seconds`.
    """
    lengths = {grid: 2 * (FRAMES // grid) * timeline.step_seconds for grid in GRIDS}
    return {
        str(grid): is_heard(audio, audio_start_seconds, timeline.window_starts(grid), length)
        for grid, length in lengths.items()
    }


def is_heard(
    audio: npt.NDArray[np.int16], audio_start_seconds: float, starts_seconds: Seconds, length_seconds: float
) -> npt.NDArray[np.bool_]:
    """[n] whether windows of this length with these starts have any sound, as in `sound_present`."""
    energies = np.concatenate([[0.0], np.cumsum(np.square(audio / 32768.0))])
    edges = starts_seconds[:, None] + [0.0, length_seconds] - audio_start_seconds
    places = np.clip(np.rint(edges * SAMPLE_RATE_HZ), 0, len(audio)).astype(np.int64)
    energy: Seconds = energies[places[:, 1]] - energies[places[:, 0]]
    return energy >= SILENCE_RMS**2 * length_seconds * SAMPLE_RATE_HZ

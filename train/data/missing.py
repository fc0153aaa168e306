"""What a model must do without: a share of a clip's faces, or of its sound.

A face that is missing is replaced by the mean colour of the pictures that encoders are trained on, sound by the
training mean of its spectrogram, which normalization maps to 0. Windows overlap by half: window i has the pieces i and
i + 1 of a clip's time, of which there is one more than windows, and what is missing is missing in both its windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SOUND, FACES = "sound", "faces"

Mask = npt.NDArray[np.bool_]


class Absent(NamedTuple):
    """Which faces and which pieces of the sound of B clips are missing."""

    faces: Mask
    """[B, F]."""
    sound: Mask
    """[B, W + 1]; [B, 0] without windows."""

    def __or__(self, other: Absent) -> Absent:  # type: ignore[override]
        """What is missing in either."""
        return Absent(self.faces | other.faces, self.sound | other.sound)

    @property
    def window_halves(self) -> Mask:
        """[B, W, 2] of each window, whether its first and its second half are missing."""
        return np.stack([self.sound[:, :-1], self.sound[:, 1:]], axis=-1)

    @classmethod
    def wholly(cls, codes: Sequence[int], faces: int, windows: int) -> Absent:
        """Masks of clips of which each misses nothing, code 0, or the whole modality of a code of `WHOLLY`."""
        names, sizes = [WHOLLY.get(code, "") for code in codes], _sizes(faces, windows)
        masks = (np.repeat([[name == modality] for name in names], size, axis=1) for modality, size in sizes.items())
        return cls(*masks)


@dataclass(frozen=True, order=True)
class Missing:
    """A condition of a test: a share of one modality is missing."""

    modality: str
    """`SOUND` or `FACES`."""
    share: float
    """Above 0, up to 1."""

    def __post_init__(self) -> None:
        if self.modality not in (SOUND, FACES) or not 0 < self.share <= 1:
            raise ValueError(f"found {self.modality!r}, share {self.share}; expected {SOUND} or {FACES}, above 0 to 1")

    def absent(self, keys: Sequence[str], faces: int, windows: int) -> Absent:
        """Masks of clips with so many faces and windows.

        Which ones are missing is drawn for each clip from its id; those of a smaller share are among those of a larger.
        """
        sizes = _sizes(faces, windows)
        masks = {name: np.zeros((len(keys), size), dtype=bool) for name, size in sizes.items()}
        for row, key in enumerate(keys):
            generator = np.random.default_rng(int.from_bytes(hashlib.sha256(f"missing {key}".encode()).digest()))
            order = generator.permutation(sizes[self.modality])
            masks[self.modality][row, order[: round(self.share * len(order))]] = True
        return Absent(masks[FACES], masks[SOUND])


def _sizes(faces: int, windows: int) -> dict[str, int]:
    """Parts of each modality that can be missing."""
    return {FACES: faces, SOUND: windows + 1 if windows else 0}


#: What a clip that was built without one of its modalities has no part of: code -> modality.
WHOLLY = {1: SOUND, 2: FACES}

#: Conditions in which every finished run is tested, beside complete clips.
CONDITIONS = tuple(Missing(modality, share) for modality in (SOUND, FACES) for share in (0.25, 0.5, 0.75, 1.0))

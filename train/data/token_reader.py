"""Shards of tokens: the codes of a clip, read in windows of 2 s; and batches of them.

A clip has 50 spectra and 25 faces a second. Where it is longer than 2 s, a window of it is read; a shorter one wraps
round. Shape suffixes: B clips, V windows of a clip, n spectra, m faces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.schema import SchemaError
from train.data.batches import ClipBatch, draw_keys
from train.data.readers import PendingBatch, Reader
from train.data.sampler import Indices
from train.data.windows import Placement
from train.models.vq_mae_av import AUDIO_CODES, VISUAL_CODES

TOKENS = "tokens"
AUDIO_MEMBER, VISUAL_MEMBER = "audio.npy", "visual.npy"
#: Spectra for each face.
_PER_FACE = AUDIO_CODES.grid[0] // VISUAL_CODES.grid[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBatch(ClipBatch):
    """Codes of clips in windows of 2 s. A modality that is not read has no codes."""

    speakers: tuple[str, ...]
    """B speaker ids."""
    missing: tuple[int, ...]
    """B codes of what each recording has no part of: 0, or one of `train.data.missing.WHOLLY`."""
    audio: Tensor
    """uint8 [B, V, 100, 64], or [B, V, 0, 64]."""
    visual: Tensor
    """uint16 [B, V, 50, 24, 24], or [B, V, 0, 24, 24]."""


class TokenReader(Reader):
    """Reads windows of codes."""

    def __init__(self, clips: Any, **options: Any) -> None:
        super().__init__(clips, **options)
        members, count = clips.members, self.windows.count
        spectra, faces = (AUDIO_CODES.grid[0] * members.audio_codes, VISUAL_CODES.grid[0] * bool(members.faces))
        self.audio = self.buffers((count, spectra, *AUDIO_CODES.grid[1:]), torch.uint8)
        self.visual = self.buffers((count, faces, *VISUAL_CODES.grid[1:]), torch.uint16)

    @staticmethod
    def suffixes(faces: int, spectrogram: str) -> tuple[str, ...]:
        """As of every reader."""
        return (*((VISUAL_MEMBER,) if faces else ()), *((AUDIO_MEMBER,) if spectrogram else ()))

    def start(self, clips: Indices, epoch: int = 0, repeats: tuple[int, ...] = ()) -> PendingBatch:
        """As of every reader; windows are those of the epoch."""
        return _PendingTokens(self, clips, epoch, repeats)


class _PendingTokens(PendingBatch):
    def __init__(self, reader: TokenReader, clips: Indices, epoch: int, repeats: tuple[int, ...]) -> None:
        fields = reader.describe(clips, repeats)
        self._placements = reader.windows.placements(draw_keys(fields["keys"], repeats), epoch).tolist()
        self._batch = TokenBatch(audio=reader.audio.take(len(clips)), visual=reader.visual.take(len(clips)), **fields)
        self._audio, self._visual = self._batch.audio.numpy(), self._batch.visual.numpy()
        self._reader, self._clips = reader, clips

    def fill(self, rows: Iterable[int]) -> None:
        reader, members = self._reader, self._reader.clips.members
        for row in rows:
            clip = int(self._clips[row])
            try:
                audio = decode_codes(reader.read(clip, AUDIO_MEMBER), AUDIO_MEMBER) if members.audio_codes else None
                visual = decode_codes(reader.read(clip, VISUAL_MEMBER), VISUAL_MEMBER) if members.faces else None
            except (SchemaError, OSError) as error:
                raise reader.damaged(clip, error) from error
            for place, placement in enumerate(self._placements[row]):
                spectra, faces = place_codes(audio, visual, Placement(*placement))
                if audio is not None:
                    np.take(audio, spectra, axis=0, out=self._audio[row, place])
                if visual is not None:
                    np.take(visual, faces, axis=0, out=self._visual[row, place])

    def finish(self) -> TokenBatch:
        return self._batch


def place_codes(
    audio: npt.NDArray[np.uint8] | None, visual: npt.NDArray[np.uint16] | None, placement: Placement
) -> tuple[Indices, Indices]:
    """Which spectra [100] and faces [50] of a clip a window has: both of the same time. Pure.

    What only one modality has at its end is left out. Without any codes of a modality, its time is that of the other.
    """
    lengths = [
        *([math.ceil(len(audio) / _PER_FACE)] if audio is not None and len(audio) else []),
        *([len(visual)] if visual is not None and len(visual) else []),
    ]
    length, window = min(lengths, default=1), VISUAL_CODES.grid[0]
    first = round(placement.position * (length - window)) if length > window else 0
    faces = (first + np.arange(window)) % length
    spectra = (_PER_FACE * faces[:, None] + np.arange(_PER_FACE)).ravel()
    return np.minimum(spectra, len(audio) - 1) if audio is not None and len(audio) else spectra, faces


_SHAPES = {
    AUDIO_MEMBER: ("|u1", AUDIO_CODES.grid[1:], AUDIO_CODES.codes),
    VISUAL_MEMBER: ("<u2", VISUAL_CODES.grid[1:], VISUAL_CODES.codes),
}


def decode_codes(data: bytes, name: str) -> npt.NDArray[Any]:
    """npy bytes -> codes [n, 64] uint8 or [m, 24, 24] uint16, read-only. The header is compared, not parsed."""
    kind, places, codes = _SHAPES[name]
    start = 10 + int.from_bytes(data[8:10], "little")
    row = np.dtype(kind).itemsize * math.prod(places)
    count = (len(data) - start) // row
    expected = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {(count, *places)}, }}"
    whole = data[:8] == b"\x93NUMPY\x01\x00" and len(data) - start == count * row and count > 0
    if not whole or data[10:start].rstrip(b" \n") != expected.encode():
        raise SchemaError(f"{name}: found {data[:120]!r}, expected an npy 1.0 header with {expected}, and its codes")
    found = np.frombuffer(data, dtype=kind, offset=start).reshape(count, *places)
    if (highest := int(found.max())) >= codes:
        raise SchemaError(f"{name}: found code {highest}, expected codes below {codes}")
    return found

"""Shards of tokens: the codes of a clip, read in windows of 2 s; and batches of them.

A clip has 50 spectra and 25 faces a second, on one clock. Where it is longer than 2 s, a window of it is read; a
shorter one wraps round. Shape suffixes: B clips, V windows of a clip, n spectra, m faces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.records import from_json
from manifests.schema import SchemaError, load_metadata
from manifests.tokens import AUDIO_MEMBER, VISUAL_MEMBER, TokenTiming, decode_audio, decode_visual
from train.data.batches import ClipBatch, draw_keys
from train.data.readers import JSON, PendingBatch, Reader
from train.data.sampler import Indices
from train.data.windows import Placement
from train.models.vq_mae_av import AUDIO_CODES, VISUAL_CODES

#: Faces a second, and spectra for each of them.
_FACES_HZ, _PER_FACE = 25, AUDIO_CODES.grid[0] // VISUAL_CODES.grid[0]
#: Most spectra that either stream begins before the other, far above any clip; and a clip whose times were not read.
_MOST_LEAD, _UNREAD = 1 << 20, -(1 << 30)


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
        self._leads = np.full(len(clips), _UNREAD, dtype=np.int32)

    @staticmethod
    def suffixes(faces: int, spectrogram: str) -> tuple[str, ...]:
        """As of every reader."""
        return (*((VISUAL_MEMBER,) if faces else ()), *((AUDIO_MEMBER,) if spectrogram else ()), JSON)

    def start(self, clips: Indices, epoch: int = 0, repeats: tuple[int, ...] = ()) -> PendingBatch:
        """As of every reader; windows are those of the epoch."""
        return _PendingTokens(self, clips, epoch, repeats)

    def lead(self, clip: int) -> int:
        """Spectra of a clip before its first face; below 0 if faces begin first. Raises SchemaError, OSError."""
        if self._leads[clip] == _UNREAD:
            meta = load_metadata(self.read(clip, JSON))
            timing: TokenTiming = from_json(TokenTiming, meta.get("timing"), "json.timing")
            if (timing.rate_hz, timing.spectra_hz) != (_FACES_HZ, _PER_FACE * _FACES_HZ):
                raise SchemaError(
                    f"json.timing: found {timing.rate_hz:g} faces and {timing.spectra_hz:g} spectra a second, expected "
                    f"{_FACES_HZ} and {_PER_FACE * _FACES_HZ}"
                )
            seconds = timing.frame_seconds[0] - timing.audio_start_seconds
            self._leads[clip] = round(np.clip(seconds * timing.spectra_hz, -_MOST_LEAD, _MOST_LEAD))
        return int(self._leads[clip])


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
                audio = decode_audio(reader.read(clip, AUDIO_MEMBER)) if members.audio_codes else None
                visual = decode_visual(reader.read(clip, VISUAL_MEMBER)) if members.faces else None
                timed = audio is not None and visual is not None and not reader.clips.missing[clip]
                lead = reader.lead(clip) if timed else 0
                for codes, shape in ((audio, AUDIO_CODES), (visual, VISUAL_CODES)):
                    if codes is not None and (not len(codes) or codes.max() >= shape.codes):
                        raise SchemaError(f"codes: found none, or one that is not below {shape.codes}")
                windows = [place_codes(audio, visual, lead, Placement(*each)) for each in self._placements[row]]
            except (SchemaError, OSError) as error:
                raise reader.damaged(clip, error) from error
            for place, (spectra, faces) in enumerate(windows):
                if audio is not None:
                    np.take(audio, spectra, axis=0, out=self._audio[row, place])
                if visual is not None:
                    np.take(visual, faces, axis=0, out=self._visual[row, place])

    def finish(self) -> TokenBatch:
        return self._batch


def place_codes(
    audio: npt.NDArray[np.uint8] | None, visual: npt.NDArray[np.uint16] | None, lead: int, placement: Placement
) -> tuple[Indices, Indices]:
    """Which spectra [100] and faces [50] of a clip a window has: both of the same time. Pure.

    `lead` spectra are before the first face. Faces before the first spectrum and after the last are left out, as is
    sound before the first face and after the last; a clip of one modality is seen wholly. Raises SchemaError where
    faces and sound have no time in common.
    """
    start = max(-(lead // _PER_FACE), 0)  # the first face that is not before the first spectrum
    lead += _PER_FACE * start
    lengths = []
    if audio is not None:
        lengths.append((len(audio) - lead + 1) // _PER_FACE)
    if visual is not None:
        lengths.append(len(visual) - start)
    length, window = min(lengths, default=1), VISUAL_CODES.grid[0]
    if length < 1:
        raise SchemaError("json.timing: found faces and sound without a time in common, expected both of one time")
    first = round(placement.position * (length - window)) if length > window else 0
    places = (first + np.arange(window)) % length
    spectra = (lead + _PER_FACE * places[:, None] + np.arange(_PER_FACE)).ravel()
    return np.clip(spectra, 0, 0 if audio is None else len(audio) - 1), start + places

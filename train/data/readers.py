"""Clips read from their tars and decoded, straight into the memory of a batch: a reader for each kind of shards.

Any thread may read. Bytes of shards are untrusted: every member is checked while it is decoded, and what does not match
raises a DataError that names the shard and the clip.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.schema import (
    COLUMNS,
    CROP_PX,
    FRAMES,
    SchemaError,
    decode_audio,
    decode_filmstrip,
    decode_metadata,
    decode_spectrogram,
    spectrogram_shape,
)
from manifests.sequence import (
    FRAMES_MEMBER,
    FrameIndex,
    check_frame,
    decode_checked_frame,
    read_frame_index,
    reduced_px,
)
from manifests.silence import sound_present
from manifests.timeline import nearest_frames, spread_instants
from train.data import DataError
from train.data.batches import Batch, PairBatch, SequenceBatch, Sounds, clip_ids, draw_keys
from train.data.sampler import Indices
from train.data.spectrograms import spectrogram_windows
from train.data.windows import WHOLE_CLIPS, Placement, Windows, place_window

if TYPE_CHECKING:
    from train.data.clip_table import ClipTable

#: Shards kept open; others are opened for each read, so that the system's limit on open files is not reached.
MAX_OPEN_SHARDS = 512

#: Memory for times and places of frames, so that jsons are parsed and headers of JPEGs checked once, not in each epoch.
KEPT_INDEX_BYTES = 64 << 20

FACES, AUDIO, JSON = "faces.jpg", "audio.flac", "json"

#: Spectrograms of one clip on a grid, and grid -> which of them have sound, where a sample says so.
ClipWindows = tuple[npt.NDArray[np.float16], Mapping[str, Sequence[bool]]]


class PendingBatch(ABC):
    """A batch whose clips are being decoded."""

    @abstractmethod
    def fill(self, rows: Iterable[int]) -> None:
        """Decode some of its clips, each once. Raises DataError naming the shard and the clip."""

    @abstractmethod
    def finish(self) -> Batch:
        """The batch, once all of its clips are decoded."""


class Reader(ABC):
    """Reads clips of one kind."""

    def __init__(
        self,
        clips: ClipTable,
        *,
        face_px: int = CROP_PX,
        windows: Windows = WHOLE_CLIPS,
        batch_size: int = 1,
        pin: bool = False,
    ) -> None:
        """Faces are decoded to `face_px` pixels a side, one of FACE_PX, or to the next larger side that is as cheap."""
        self.clips = clips
        self.face_px = face_px
        self.windows = windows
        self._shards = _ShardFiles([clips.folder / name for name in clips.shards])
        self._shard_of = memoryview(np.ascontiguousarray(clips.shard))  # as Python's numbers, without a copy
        self._places = {suffix: place for place, suffix in enumerate(clips.members.suffixes)}
        self._batch_size = batch_size
        self._pin = pin

    @staticmethod
    @abstractmethod
    def suffixes(faces: int, spectrogram: str) -> tuple[str, ...]:
        """Members that are read of each clip for so many faces, or none, and a spectrogram, or ""."""

    @staticmethod
    def clip_windows(read: Callable[[str], bytes], spectrogram: str) -> ClipWindows:  # noqa: ARG004
        """The spectrograms that a receipt's statistics are of; `read` gives a member. Raises SchemaError."""
        raise SchemaError(f"{spectrogram}: found a kind of shards without spectrograms")

    @abstractmethod
    def start(self, clips: Indices, epoch: int = 0, repeats: tuple[int, ...] = ()) -> PendingBatch:
        """A batch of these clips, to be filled. `repeats` is as in `ClipBatch`."""

    def place(self, clip: int, suffix: str) -> tuple[int, int]:
        """Offset and size of a member in its tar."""
        offset, size = self.clips.byte_ranges[clip, self._places[suffix]].tolist()
        return offset, size

    def read(self, clip: int, suffix: str, place: tuple[int, int] | None = None) -> bytes:
        """A member of a clip, or another place in its tar. Raises SchemaError, OSError."""
        offset, size = place or self.place(clip, suffix)
        data = self._shards.read(self._shard_of[clip], offset, size)
        if len(data) != size:
            raise SchemaError(f"{suffix}: found {len(data)} bytes, expected {size}")
        return data

    def damaged(self, clip: int, error: Exception) -> DataError:
        """The error for a clip that cannot be decoded."""
        path = self.clips.folder / self.clips.shards[self.clips.shard[clip]]
        key = self.clips.keys[clip].decode()
        return DataError(f"{path}: damaged at clip {key}: {error}; build or fetch it again")

    def describe(self, clips: Indices, repeats: tuple[int, ...]) -> dict[str, Any]:
        """The fields that batches of all kinds have."""
        return {
            "keys": tuple(key.decode() for key in self.clips.keys[clips]),
            "speakers": tuple(self.clips.speakers[shard] for shard in self.clips.shard[clips]),
            "labels": torch.from_numpy(self.clips.labels[clips]),
            "missing": tuple(self.clips.missing[clips].tolist()),
            "repeats": repeats,
        }

    def buffers(self, shape: tuple[int, ...], dtype: torch.dtype) -> BufferPool:
        """Memory for one field of batches, `shape` of a clip."""
        return BufferPool((self._batch_size, *shape), dtype, pin=self._pin)


class PairReader(Reader):
    """Reads pairs: a filmstrip of 16 faces, and spectrograms."""

    def __init__(self, clips: ClipTable, **options: Any) -> None:
        super().__init__(clips, **options)
        members = clips.members
        strip = (self.face_px, FRAMES * self.face_px, 3)
        self.filmstrips = self.buffers(strip, torch.uint8) if members.faces else None
        shape = spectrogram_shape(members.spectrogram) if members.spectrogram else ()
        self.spectrograms = self.buffers(shape, torch.float16) if shape else None

    @staticmethod
    def suffixes(faces: int, spectrogram: str) -> tuple[str, ...]:
        """As of every reader."""
        return (*((FACES,) if faces else ()), *((f"{spectrogram}.npy",) if spectrogram else ()))

    @staticmethod
    def clip_windows(read: Callable[[str], bytes], spectrogram: str) -> ClipWindows:
        """As of every reader: what is stored."""
        windows = decode_spectrogram(read(f"{spectrogram}.npy"), spectrogram)
        return windows, decode_metadata(read(JSON)).get("sound_present", {})

    def start(self, clips: Indices, epoch: int = 0, repeats: tuple[int, ...] = ()) -> PendingBatch:  # noqa: ARG002
        """As of every reader; pairs are the same in every epoch."""
        return _PendingPairs(self, clips, repeats)


class _PendingPairs(PendingBatch):
    def __init__(self, reader: PairReader, clips: Indices, repeats: tuple[int, ...]) -> None:
        count, side = len(clips), reader.face_px
        filmstrips = reader.filmstrips.take(count) if reader.filmstrips else torch.empty((count, side, 0, 3)).byte()
        nothing = torch.empty((count, 0, 0, COLUMNS), dtype=torch.float16)
        spectrograms = reader.spectrograms.take(count) if reader.spectrograms else nothing
        self._batch = PairBatch(filmstrips=filmstrips, spectrograms=spectrograms, **reader.describe(clips, repeats))
        self._strips, self._rows = filmstrips.numpy(), spectrograms.numpy()
        self._reader, self._clips = reader, clips

    def fill(self, rows: Iterable[int]) -> None:
        reader, spectrogram = self._reader, self._reader.clips.members.spectrogram
        for row in rows:
            clip = int(self._clips[row])
            try:
                if reader.filmstrips:
                    decode_filmstrip(reader.read(clip, FACES), self._strips[row], reader.face_px)
                if spectrogram:
                    self._rows[row] = decode_spectrogram(reader.read(clip, f"{spectrogram}.npy"), spectrogram)
            except (SchemaError, OSError) as error:
                raise reader.damaged(clip, error) from error

    def finish(self) -> Batch:
        return self._batch


class SequenceReader(Reader):
    """Reads sequences: of the frames those of each window, once each, and the sound."""

    def __init__(self, clips: ClipTable, **options: Any) -> None:
        super().__init__(clips, **options)
        members = clips.members
        side = reduced_px(members.side_px, self.face_px)
        self.frames = self.buffers((self.windows.count, members.faces, side, side, 3), torch.uint8)
        self._known = dict[int, _KnownClip]()
        self._known_bytes = 0

    @staticmethod
    def suffixes(faces: int, spectrogram: str) -> tuple[str, ...]:
        """As of every reader."""
        return (*((FRAMES_MEMBER,) if faces else ()), *((AUDIO,) if spectrogram else ()), JSON)

    @staticmethod
    def clip_windows(read: Callable[[str], bytes], spectrogram: str) -> ClipWindows:
        """As of every reader: those of the whole clip, as a build of pairs stores them."""
        feature, grid = split_spectrogram(spectrogram)
        index, sound = read_frame_index(read(JSON), None), decode_audio(read(AUDIO))
        timeline, start = spread_instants(index.span_seconds), index.audio_start_seconds
        starts, hops = timeline.window_starts(grid)[None], np.array([timeline.hop_seconds(grid)])
        (windows,) = spectrogram_windows([sound], np.array([start]), starts, hops, feature)
        heard = sound_present(sound, start, timeline) if index.masked else {}
        return windows.numpy().astype(np.float16), {name: each.tolist() for name, each in heard.items()}

    def start(self, clips: Indices, epoch: int = 0, repeats: tuple[int, ...] = ()) -> PendingBatch:
        """As of every reader; windows are those of the epoch."""
        return _PendingSequences(self, clips, epoch, repeats)

    def know(self, clip: int) -> _KnownClip:
        """Times and places of the frames of a clip, kept for later epochs. Raises SchemaError, OSError."""
        known = self._known.get(clip)
        if known is None:
            frames_bytes = self.place(clip, FRAMES_MEMBER)[1] if self.clips.members.faces else None
            index = read_frame_index(self.read(clip, JSON), frames_bytes)
            known = _KnownClip(index, bytearray(len(index.frame_seconds)))
            if self._known_bytes < KEPT_INDEX_BYTES:
                self._known[clip] = known
                self._known_bytes += 1024 + index.frame_seconds.nbytes + index.byte_ranges.nbytes + len(known.checked)
        return known


class _KnownClip(NamedTuple):
    index: FrameIndex
    checked: bytearray
    """[n] 1 for a frame that was decoded before: its header is not checked again, as its bytes have not changed."""


class _PendingSequences(PendingBatch):
    def __init__(self, reader: SequenceReader, clips: Indices, epoch: int, repeats: tuple[int, ...]) -> None:
        fields, (count, windows) = reader.describe(clips, repeats), (len(clips), reader.windows.count)
        spectrogram = reader.clips.members.spectrogram
        self._grid = split_spectrogram(spectrogram)[1] if spectrogram else 0
        frames = reader.frames.take(count)
        ids = clip_ids(fields["keys"], fields["speakers"])
        self._placements = reader.windows.placements(draw_keys(ids, repeats), epoch).tolist()
        self._sounds = [np.empty(0, np.int16)] * count
        self._sound_starts = np.zeros(count)
        self._window_starts, self._hops = np.zeros((count, windows, self._grid)), np.zeros((count, windows))
        self._frames, self._tensor = frames.numpy(), frames
        self._reader, self._clips, self._fields = reader, clips, fields

    def fill(self, rows: Iterable[int]) -> None:
        for row in rows:
            clip = int(self._clips[row])
            try:
                self._decode(row, clip)
            except (SchemaError, OSError) as error:
                raise self._reader.damaged(clip, error) from error

    def _decode(self, row: int, clip: int) -> None:
        reader, members = self._reader, self._reader.clips.members
        (index, checked), decoded = reader.know(clip), dict[int, npt.NDArray[np.uint8]]()
        for place, placement in enumerate(self._placements[row]):
            window = place_window(index.span_seconds, reader.windows.longest_seconds, Placement(*placement))
            timeline = window.timeline
            if self._grid:
                self._window_starts[row, place] = timeline.window_starts(self._grid)
                self._hops[row, place] = timeline.hop_seconds(self._grid)
            if not members.faces:
                continue
            first, _ = reader.place(clip, FRAMES_MEMBER)
            shown = nearest_frames(index.frame_seconds, timeline.instants_seconds[:: FRAMES // members.faces])
            ranges = index.byte_ranges[shown].tolist()
            for out, frame, (offset, size) in zip(self._frames[row, place], shown.tolist(), ranges, strict=True):
                if frame in decoded:  # of a short clip, or of windows that overlap
                    out[...] = decoded[frame]
                    continue
                jpeg = reader.read(clip, FRAMES_MEMBER, (first + offset, size))
                if not checked[frame]:
                    check_frame(jpeg, members.side_px)
                decoded[frame] = decode_checked_frame(jpeg, members.side_px, needed_px=reader.face_px, out=out)
                checked[frame] = 1
        if self._grid:
            self._sounds[row] = decode_audio(reader.read(clip, AUDIO))
            self._sound_starts[row] = index.audio_start_seconds

    def finish(self) -> Batch:
        sounds = Sounds(
            samples=tuple(self._sounds),
            start_seconds=self._sound_starts,
            window_starts=self._window_starts,
            hops=self._hops,
        )
        return SequenceBatch(frames=self._tensor, sounds=sounds, **self._fields)


def split_spectrogram(name: str) -> tuple[str, int]:
    """`mfcc_16` -> its feature and its grid."""
    feature, _, grid = name.partition("_")
    return feature, int(grid)


class BufferPool:
    """Memory for one field of batches, reused once nothing refers to it: fresh pages cost a third of decoding."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, *, pin: bool) -> None:
        self._shape = shape
        self._dtype = dtype
        self._pin = pin
        self._free: list[Tensor] = []

    def take(self, clips: int) -> Tensor:
        """[clips, ...] uninitialised. torch recycles pinned memory itself."""
        if self._pin:
            return torch.empty((clips, *self._shape[1:]), dtype=self._dtype, pin_memory=True)
        whole = self._free.pop() if self._free else torch.empty(self._shape, dtype=self._dtype)
        borrowed = whole.numpy()[:clips]
        weakref.finalize(borrowed, self._free.append, whole)  # once the last tensor that uses it is freed
        return torch.from_numpy(borrowed)


class _ShardFiles:
    """Tars, opened when first read; any thread may read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._descriptors)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a tar, fewer at its end. Raises OSError."""
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            with self._lock:
                if shard not in self._descriptors and len(self._descriptors) < MAX_OPEN_SHARDS:
                    self._descriptors[shard] = os.open(self._paths[shard], os.O_RDONLY)
                descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        with self._paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)


def _close_all(descriptors: Mapping[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)

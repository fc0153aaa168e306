"""The sound of a clip: the recording's own or that of a separate file, and what surrounds a segment in the recording.

A separate file has a clock of its own. The file of a whole recording starts with it. The file of a segment is searched
for in the recording's sound by normalized cross-correlation, which also shows whether the two are the same sound; it is
then placed where it was found, on the clock of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.fft

from builder.datasets.base import SOUND_SEARCH_SECONDS, ClipSource
from builder.decoders.base import DecodedSound, MediaError, Sound
from builder.spectrograms import FRAME_SAMPLES, pre_emphasis
from manifests.schema import SAMPLE_RATE_HZ
from manifests.timeline import Timeline

Samples = npt.NDArray[np.int16]

#: Correlation with the recording below which a separate file counts as another sound. Other speech of half a second
#: reached 0.22, of two seconds 0.10; a listener as loud as the talker, all the time, left at least 0.27, usually 0.7.
MIN_CORRELATION = 0.25
#: Distance from where a file is expected above which the clip is flagged.
OFFSET_SECONDS = 0.1
#: Difference between the start or end times of sound and picture above which the clip is flagged.
MISMATCH_SECONDS = 0.5
#: Most that the recording's sound is amplified or attenuated to the level of a file.
MAX_GAIN = 8.0


@dataclass(frozen=True, kw_only=True)
class ClipSound:
    """The sound that a clip is built with."""

    sound: Sound
    flags: frozenset[str] = frozenset()
    """Keys of `manifests.schema.FLAGS`."""
    from_file: bool = False
    """Whether the separate file was used."""
    alignment: dict[str, float] = field(default_factory=dict)
    """How the file was found in the recording: correlation, and offset in seconds; {} if it was not searched for."""


def choose_sound(
    source: ClipSource, timeline: Timeline, recorded: DecodedSound, read_file: Callable[[], Sound]
) -> ClipSound:
    """The sound of a clip, from the recording or from its separate file.

    Args:
        source: which of both comes first.
        timeline: of the picture.
        recorded: sound of the recording, as far as `source.sound_range_seconds` reaches.
        read_file: decodes the separate file; its start time is not used.

    Raises MediaError if there is no usable sound.
    """
    start, end = source.segment_seconds or timeline.span_seconds
    if source.segment_seconds and isinstance(recorded, Sound) and not _overlaps(recorded, start, end):
        recorded = None  # it has sound around the segment only
    if not source.sound_first:
        if isinstance(recorded, MediaError):
            raise recorded
        if recorded is not None:
            return ClipSound(sound=_cut_to_windows(recorded, source, timeline))
    try:
        own = replace(read_file(), start_seconds=start)
    except MediaError:
        if not source.sound_first or not isinstance(recorded, Sound):
            raise
        sound = _cut_to_windows(recorded, source, timeline)
        return ClipSound(sound=sound, flags=frozenset({"sound_from_recording"}))
    if not isinstance(recorded, Sound):
        return ClipSound(sound=own, flags=frozenset({"sound_from_file"}), from_file=True)
    if source.segment_seconds is None:
        return ClipSound(sound=own, from_file=True)  # both are whole files, and start together
    return _place_in_recording(own, recorded, source, timeline)


def find_sound(part: Samples, whole: Samples, expected: int, reach: int) -> tuple[int, float]:
    """Index in `whole` at which `part` starts, and the normalized cross-correlation there, from -1 to 1.

    Searches from `expected - reach` to `expected + reach`; `whole` is silent outside. Both are pre-emphasized, so that
    the pitch of voices, which is alike in any speech, counts less.
    """
    first, count = expected - reach, len(part) + 2 * reach
    area = np.zeros(count)
    start, stop = max(first, 0), min(first + count, len(whole))
    if start < stop:
        area[start - first : stop - first] = _emphasize(whole[start:stop])
    sought = _emphasize(part)
    length = scipy.fft.next_fast_len(count + len(part), real=True)
    spectrum = scipy.fft.rfft(area, length) * np.conj(scipy.fft.rfft(sought, length))
    products = scipy.fft.irfft(spectrum, length)[: 2 * reach + 1]
    sums = np.concatenate([[0.0], np.cumsum(area**2)])
    energies = sums[len(part) :] - sums[: 2 * reach + 1]
    floor = max(1e-3 * float(energies.max()), 1e-9)  # what is nearly silent correlates with nothing
    correlations = products / np.sqrt(np.maximum(energies, floor) * max(float(np.sum(sought**2)), 1e-9))
    best = int(correlations.argmax())
    return first + best, float(correlations[best])


def _place_in_recording(own: Sound, recorded: Sound, source: ClipSource, timeline: Timeline) -> ClipSound:
    """A file's sound at its place in the recording, with the recording's sound before and after it at its level.

    The recording's sound during the segment is not used, not even where the file is shorter: others may talk there.
    """
    expected = _index(recorded, own.start_seconds)
    place, correlation = find_sound(
        own.samples, recorded.samples, expected, round(SOUND_SEARCH_SECONDS * SAMPLE_RATE_HZ)
    )
    offset = (place - expected) / SAMPLE_RATE_HZ
    alignment = {"sound_correlation": round(correlation, 3), "sound_offset_seconds": round(offset, 6)}
    if correlation < MIN_CORRELATION:  # neither place nor level are known: use the file alone, where it is expected
        flags = frozenset({"sound_mismatch"})
        return ClipSound(sound=own, flags=flags, from_file=True, alignment=alignment)
    before = after = own.samples[:0]
    flags = {"sound_mismatch"} if abs(offset) > OFFSET_SECONDS else set()
    if source.segment_seconds is not None and source.context_seconds is not None:
        length = source.segment_seconds[1] - source.segment_seconds[0]
        if abs(len(own.samples) / SAMPLE_RATE_HZ - length) > MISMATCH_SECONDS:
            flags.add("sound_length_mismatch")
        # The segment's times are those of the file; on the recording's clock it is later by the offset.
        first, last = _usable(recorded, source, timeline, offset)
        end = place + max(len(own.samples), round(length * SAMPLE_RATE_HZ))
        level = _level(own.samples, recorded.samples, place)
        if first < place <= len(recorded.samples):
            before = _scale(recorded.samples[first:place], level)
        if end < last:
            gap = np.zeros(end - place - len(own.samples), dtype=np.int16)
            after = np.concatenate([gap, _scale(recorded.samples[end:last], level)])
    sound = Sound(
        samples=np.concatenate([before, own.samples, after]),
        start_seconds=recorded.start_seconds + (place - len(before)) / SAMPLE_RATE_HZ,
        damaged=own.damaged,
    )
    return ClipSound(sound=sound, flags=frozenset(flags), from_file=True, alignment=alignment)


def _cut_to_windows(recorded: Sound, source: ClipSource, timeline: Timeline) -> Sound:
    """The recording's sound of a segment, and of what its windows reach beyond it."""
    if source.segment_seconds is None or source.sound_range_seconds == source.segment_seconds:
        return recorded  # it was read as far as it is used
    first, last = _usable(recorded, source, timeline)
    start = recorded.start_seconds + first / SAMPLE_RATE_HZ
    return replace(recorded, samples=recorded.samples[first:last], start_seconds=start)


def _usable(recorded: Sound, source: ClipSource, timeline: Timeline, offset_seconds: float = 0.0) -> tuple[int, int]:
    """First and last + 1 index of the sound that is the segment's, or that a window reaches and no one else talks in.

    `offset_seconds` is how much later than its times the segment is on the recording's clock.
    """
    start, end = source.segment_seconds or timeline.span_seconds
    earliest, latest = source.context_seconds or (start, end)
    margin = FRAME_SAMPLES / SAMPLE_RATE_HZ
    first, last = timeline.windows_span_seconds
    first = max(min(first - margin, start + offset_seconds), earliest + offset_seconds)
    last = min(max(last + margin, end + offset_seconds), latest + offset_seconds)
    return max(_index(recorded, first), 0), min(_index(recorded, last), len(recorded.samples))


def _index(sound: Sound, seconds: float) -> int:
    """Index of the sample at a presentation time; it may be outside of the sound."""
    return round((seconds - sound.start_seconds) * SAMPLE_RATE_HZ)


def _overlaps(sound: Sound, start_seconds: float, end_seconds: float) -> bool:
    return _index(sound, start_seconds) < len(sound.samples) and _index(sound, end_seconds) > 0


def _emphasize(samples: Samples) -> npt.NDArray[np.float64]:
    return pre_emphasis(samples.astype(np.float32) / 32768.0).astype(np.float64)


def _level(own: Samples, recorded: Samples, place: int) -> float:
    """Factor from the recording's level of a voice to the file's; others who talk in the recording do not change it."""
    start, stop = max(place, 0), min(place + len(own), len(recorded))
    voice = own[start - place : stop - place].astype(np.float64)
    share = float(voice @ recorded[start:stop]) / max(float(voice @ voice), 1.0)
    return float(np.clip(1 / share, 1 / MAX_GAIN, MAX_GAIN)) if share > 0 else 1.0


def _scale(samples: Samples, factor: float) -> Samples:
    return np.clip(np.rint(samples * factor), -32768, 32767).astype(np.int16)

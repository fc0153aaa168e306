"""The clock of both streams: 16 instants, their windows and the frames shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from builder.timeline import TooShort, fixed, uniform
from manifests.schema import COLUMNS, FRAMES, GRIDS
from manifests.timeline import Timeline, nearest_frames

Seconds = npt.NDArray[np.float64]
TOLERANCE = 1e-9  # seconds


@st.composite
def clips(draw: DrawFn, fewest: int = 2, most: int = 200) -> tuple[Seconds, float]:
    """(times of all frames, end of the last) of a clip whose frame rate may vary; whole milliseconds."""
    steps = draw(st.lists(st.integers(1, 200), min_size=fewest, max_size=most))
    start = draw(st.integers(-5000, 5_000_000))
    ticks = start + np.concatenate([[0], np.cumsum(steps)])
    return ticks[:-1] / 1000, float(ticks[-1] / 1000)


#: Drawing more than a hundred frames one by one takes time; a steady clip is described by three numbers.
steady = st.builds(
    lambda start, rate, count: (start + np.arange(count) / rate, start + count / rate),
    st.floats(-10, 5000),
    st.floats(5, 120),
    st.integers(2, 500),
)
any_clip = clips() | steady
timelines = any_clip.map(lambda clip: uniform(*clip))


def shifted_and_stretched(clip: tuple[Seconds, float], shift: float, scale: float) -> tuple[Seconds, float]:
    return clip[0] * scale + shift, clip[1] * scale + shift


def close(one: object, other: object) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-6)


# Instants


@given(any_clip)
def test_uniform_takes_the_middles_of_16_equal_parts(clip: tuple[Seconds, float]) -> None:
    frames, end = clip
    timeline = uniform(frames, end)
    length = end - frames[0]
    assert timeline.span_seconds == (frames[0], end)
    assert timeline.step_seconds == pytest.approx(length / 16)
    close(timeline.instants_seconds, [frames[0] + (i + 0.5) * length / 16 for i in range(16)])
    assert all(frames[0] < instant < end for instant in timeline.instants_seconds)


@given(any_clip, st.floats(-100, 100), st.floats(0.1, 10))
def test_uniform_moves_and_stretches_with_the_clip(clip: tuple[Seconds, float], shift: float, scale: float) -> None:
    before, after = uniform(*clip), uniform(*shifted_and_stretched(clip, shift, scale))
    close(after.instants_seconds, np.asarray(before.instants_seconds) * scale + shift)
    assert after.step_seconds == pytest.approx(before.step_seconds * scale, abs=1e-6)


@given(clips(fewest=91, most=95))
def test_fixed_shows_frames_0_6_to_90(clip: tuple[Seconds, float]) -> None:
    timeline = fixed(*clip)
    assert timeline.instants_seconds == tuple(clip[0][[6 * i for i in range(16)]])
    assert timeline.step_seconds == pytest.approx((clip[0][90] - clip[0][0]) / 15)
    assert timeline.span_seconds == (clip[0][0], clip[1])
    np.testing.assert_array_equal(nearest_frames(clip[0], timeline.instants_seconds), np.arange(0, 91, 6))


@given(step=st.integers(1, 12), extra=st.integers(0, 5))
def test_fixed_takes_any_step(step: int, extra: int) -> None:
    count = 15 * step + 1 + extra
    timeline = fixed(np.arange(count) / 25, count / 25, step_frames=step)
    close(timeline.instants_seconds, np.arange(16) * step / 25)
    assert timeline.step_seconds == pytest.approx(step / 25)


def test_clips_too_short_say_how_short() -> None:
    frames = np.arange(91) / 30
    assert len(fixed(frames, 91 / 30).instants_seconds) == 16
    with pytest.raises(TooShort, match="found 90 frames, expected at least 91"):
        fixed(frames[:90], 3.0)
    with pytest.raises(TooShort, match="found 1 frame, expected at least 2"):
        uniform(frames[:1], 1 / 30)
    with pytest.raises(TooShort):
        uniform(frames[:0], 0.0)
    assert len(uniform(frames[:2], 2 / 30).instants_seconds) == 16


# Windows


@given(timelines)
def test_windows_reach_from_the_instant_before_to_the_one_after(timeline: Timeline) -> None:
    instants, step = np.asarray(timeline.instants_seconds), timeline.step_seconds
    for grid, every in zip(GRIDS, (1, 2), strict=True):
        starts = timeline.window_starts(grid)
        ends = starts + COLUMNS * timeline.hop_seconds(grid)
        assert len(starts) == grid
        close(starts, instants[::every] - every * step)
        close(ends, instants[::every] + every * step)


@given(timelines)
def test_the_grid_of_8_has_every_second_instant_and_twice_the_step(timeline: Timeline) -> None:
    assert timeline.hop_seconds(8) == pytest.approx(2 * timeline.hop_seconds(16))
    middles = {grid: timeline.column_seconds(grid)[:, COLUMNS // 2] for grid in GRIDS}
    close(middles[16], timeline.instants_seconds)
    close(middles[8], timeline.instants_seconds[::2])


@given(timelines)
def test_neighbouring_windows_share_half_their_columns(timeline: Timeline) -> None:
    for grid in GRIDS:
        columns = timeline.column_seconds(grid)
        assert columns.shape == (grid, COLUMNS)
        close(columns[1:, : COLUMNS // 2], columns[:-1, COLUMNS // 2 :])
        close(np.diff(columns, axis=1), timeline.hop_seconds(grid))


# Frames shown


@given(any_clip, st.lists(st.floats(0, 1), min_size=1, max_size=FRAMES))
def test_nearest_frame_is_the_nearest_of_all(clip: tuple[Seconds, float], where: list[float]) -> None:
    frames, end = clip
    instants = frames[0] - 1 + np.sort(where) * (end - frames[0] + 2)
    chosen = nearest_frames(frames, tuple(instants))
    distances = np.abs(frames - instants[:, None])
    np.testing.assert_allclose(distances[range(len(chosen)), chosen], distances.min(axis=1), rtol=0, atol=TOLERANCE)
    assert (np.diff(chosen) >= 0).all()


@given(st.lists(st.integers(1, 64), min_size=1, max_size=20), st.integers(-1000, 1000))
def test_ties_go_to_the_earlier_frame(steps: list[int], start: int) -> None:
    frames = (start + np.concatenate([[0], np.cumsum(steps)])) / 64.0  # exact in binary, and so are the middles
    middles = (frames[:-1] + frames[1:]) / 2
    np.testing.assert_array_equal(nearest_frames(frames, tuple(middles)), np.arange(len(steps)))


@given(any_clip)
def test_frames_themselves_and_what_lies_outside(clip: tuple[Seconds, float]) -> None:
    frames, end = clip
    np.testing.assert_array_equal(nearest_frames(frames, tuple(frames)), np.arange(len(frames)))
    np.testing.assert_array_equal(nearest_frames(frames, (frames[0] - 9, end + 9)), [0, len(frames) - 1])


@given(clips(), st.sampled_from([-64.0, 0.5, 1024.0]), st.sampled_from([0.25, 2.0, 8.0]))
def test_frames_chosen_do_not_depend_on_the_clock(clip: tuple[Seconds, float], shift: float, scale: float) -> None:
    """But for instants so near to a tie that rounding decides."""
    instants = np.asarray(uniform(*clip).instants_seconds)
    moved, _ = shifted_and_stretched(clip, shift, scale)
    one, other = nearest_frames(clip[0], tuple(instants)), nearest_frames(moved, tuple(instants * scale + shift))
    tied = np.abs(np.abs(clip[0][one] - instants) - np.abs(clip[0][other] - instants)) < TOLERANCE
    assert tied.all()


def test_a_single_frame_is_nearest_to_everything() -> None:
    assert nearest_frames(np.array([5.0]), (0.0, 5.0, 9.0)).tolist() == [0, 0, 0]

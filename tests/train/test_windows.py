"""Windows in time: within the clip, by (seed, epoch, clip) alone, and of a whole clip those of the builder."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.timeline import uniform
from train.data.windows import EvenWindows, Placement, RandomWindows, Window, describe_windows, place_window

SPANS = st.tuples(st.floats(-1e4, 1e4), st.floats(1e-2, 3600)).map(lambda each: (each[0], each[0] + each[1]))
SHARES = st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)).map(lambda each: (min(each), max(each)))
LONGEST = st.one_of(st.just(0.0), st.floats(0.1, 100))


@given(span=SPANS, longest=st.one_of(st.just(0.0), st.floats(3601, 5000)), position=st.floats(0, 1))
def test_the_window_of_a_whole_clip_is_the_timeline_of_pairs(
    span: tuple[float, float], longest: float, position: float
) -> None:
    """Bit for bit, so that no frame between two instants is another one."""
    window = place_window(span, longest, Placement(1.0, position))
    assert window == span
    assert window.timeline == uniform(np.array([span[0], span[1] - 1e-3]), span[1])


@given(span=SPANS, longest=LONGEST, share=st.floats(0.1, 1), position=st.floats(0, 1))
def test_windows_stay_within_the_clip_and_have_their_length(
    span: tuple[float, float], longest: float, share: float, position: float
) -> None:
    start, end = span
    window = place_window(span, longest, Placement(share, position))
    assert start <= window.start_seconds < window.end_seconds <= end
    expected = share * min(longest or math.inf, end - start)
    assert window.end_seconds - window.start_seconds == pytest.approx(expected, rel=1e-6, abs=1e-8)
    instants = window.timeline.instants_seconds
    assert window.start_seconds < instants[0] < instants[-1] < window.end_seconds


@given(span=SPANS, longest=LONGEST, count=st.integers(2, 9))
def test_windows_of_a_test_are_evenly_spaced_from_start_to_end(
    span: tuple[float, float], longest: float, count: int
) -> None:
    windows = EvenWindows(longest_seconds=longest, count=count)
    (places,) = windows.placements(["a"], 0)
    found = [place_window(span, longest, Placement(*each)) for each in places.tolist()]
    assert found[0].start_seconds == span[0]
    assert found[-1].end_seconds == pytest.approx(span[1])
    assert np.diff([each.start_seconds for each in found]) == pytest.approx(
        [(found[-1].start_seconds - span[0]) / (count - 1)] * (count - 1), abs=1e-6
    )


def test_a_single_window_of_a_test_is_at_the_centre() -> None:
    (placement,) = EvenWindows(longest_seconds=1.0).placements(["a", "b"], 3)[1]
    assert place_window((2.0, 6.0), 1.0, Placement(*placement)) == Window(3.5, 4.5)
    assert place_window((2.0, 2.5), 1.0, Placement(*placement)) == Window(2.0, 2.5)


@given(share=SHARES, seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), count=st.integers(1, 3))
def test_a_random_window_depends_on_seed_epoch_draw_and_clip_alone(
    share: tuple[float, float], seed: int, epoch: int, count: int
) -> None:
    windows = RandomWindows(share=share, seed=seed, count=count)
    together, alone = windows.placements(["a", "b", "c"], epoch), windows.placements(["b"], epoch)
    assert together.shape == (3, count, 2)
    assert together[1].tolist() == alone[0].tolist()
    assert (share[0] <= together[..., 0]).all() and (together[..., 0] <= share[1]).all()
    assert (together[..., 1] >= 0).all() and (together[..., 1] < 1).all()
    positions = {float(each) for each in together[..., 1].ravel()}
    others = RandomWindows(share=share, seed=seed + 1, count=count).placements(["b"], epoch)
    later = windows.placements(["b"], epoch + 1)
    assert len(positions | {float(others[0, 0, 1]), float(later[0, 0, 1])}) == 3 * count + 2


def test_random_windows_are_of_all_lengths_and_places() -> None:
    drawn = RandomWindows(share=(0.6, 1.0)).placements(list(map(str, range(4000))), 1)[:, 0]
    assert drawn[:, 0].min() < 0.61 < 0.99 < drawn[:, 0].max()
    assert drawn.mean(0) == pytest.approx([0.8, 0.5], abs=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0.0, (1.0, 1.0), 1), "whole clips"),
        ((0.0, (0.6, 1.0), 1), "random 0.6 to 1 of a clip, tested on whole clips"),
        ((2.56, (1.0, 1.0), 5), "random 2.56 s, tested on 5 windows of 2.56 s"),
        ((2.5, (0.5, 0.75), 1), "random 0.5 to 0.75 of 2.5 s, tested on the middle 2.5 s"),
    ],
)
def test_windows_are_described(settings: tuple[float, tuple[float, float], int], words: str) -> None:
    assert describe_windows(*settings) == words

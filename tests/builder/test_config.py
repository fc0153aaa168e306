"""Settings: wrong ones are refused in a line that lists the right ones, and whatever changes bytes changes the hash."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import config as module
from builder.config import BuildConfig, ConfigError, digest, identity, model_hashes
from builder.timeline import TooShort
from manifests.schema import FEATURE_ROWS
from manifests.text import config_diff

DEFAULT = BuildConfig(dataset="demo")
CROPS = ("aligned", "voxceleb", "marlin", "openface")

crops = st.tuples(st.sampled_from(CROPS), st.just("frame")) | st.tuples(
    st.just("aligned"), st.sampled_from(["clip", "none"])
)
configs = st.builds(
    lambda crop_and_align, **rest: BuildConfig(crop=crop_and_align[0], align=crop_and_align[1], **rest),
    crop_and_align=crops,
    dataset=st.sampled_from(["ravdess", "crema-d", "iemocap"]),
    timeline=st.sampled_from(["uniform", "fixed"]),
    step_frames=st.integers(1, 1000),
    features=st.lists(st.sampled_from(sorted(FEATURE_ROWS)), min_size=1, unique=True).map(tuple),
    decoder=st.sampled_from(["pyav", "ffmpeg"]),
    options=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
trees = st.recursive(
    scalars, lambda inner: st.dictionaries(st.text("abc", max_size=2), inner, max_size=3), max_leaves=6
)
mappings = st.dictionaries(st.text("abc", max_size=2), trees, max_size=4)
ONE_OR_MORE = "expected one or more of mfcc, logmel, stft, each once (make: FEATURE=)"


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeline": "even"}, "timeline: found 'even', expected one of uniform, fixed"),
        ({"align": "eyes"}, "align: found 'eyes', expected one of frame, clip, none"),
        ({"crop": "tight"}, "crop: found 'tight', expected one of aligned, voxceleb, marlin, openface"),
        ({"decoder": "cv2"}, "decoder: found 'cv2', expected one of pyav, ffmpeg"),
        ({"features": ("mfcc", "chroma")}, "feature: found 'chroma', expected one of mfcc, logmel, stft"),
        ({"features": ()}, f"features: found none, {ONE_OR_MORE}"),
        ({"features": ("mfcc", "mfcc")}, f"features: found mfcc, mfcc, {ONE_OR_MORE}"),
        ({"step_frames": 0}, "step_frames: found 0, expected 1 to 1000"),
        ({"step_frames": 1001}, "step_frames: found 1001, expected 1 to 1000"),
    ],
)
def test_wrong_settings_are_refused_listing_the_right_ones(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BuildConfig(**{"dataset": "demo"} | changes)
    assert str(caught.value) == message


@pytest.mark.parametrize("align", ["clip", "none"])
@pytest.mark.parametrize("crop", CROPS[1:])
def test_only_our_own_crop_can_be_aligned_otherwise(crop: str, align: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BuildConfig(dataset="demo", crop=crop, align=align)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"align: found {align!r} with crop {crop!r}, which is aligned in its own way; "
        "leave align out, or use crop 'aligned' (make: ALIGN=, CROP=)"
    )


def test_a_build_before_crops_had_names_is_another_build() -> None:
    """Its faces were aligned otherwise, so that its shards must not be mixed with new ones."""
    before = identity(DEFAULT)
    before["config"] = {name: value for name, value in before["config"].items() if name != "crop"}
    assert config_diff(before, identity(DEFAULT)) == ["config.crop: None -> aligned"]
    assert digest(before) != digest(identity(DEFAULT))


@given(configs)
def test_right_settings_survive_being_saved(made: BuildConfig) -> None:
    saved = json.loads(json.dumps(asdict(made)))
    assert BuildConfig(**saved | {"features": tuple(saved["features"])}) == made


def test_timelines_are_the_ones_named() -> None:
    frames = np.arange(100) / 25
    assert DEFAULT.make_timeline(frames, 4.0).instants_seconds[0] == pytest.approx(0.125)
    fixed = BuildConfig(dataset="demo", timeline="fixed").make_timeline(frames, 4.0)
    assert fixed.instants_seconds == tuple(frames[:91:6])
    by_two = BuildConfig(dataset="demo", timeline="fixed", step_frames=2).make_timeline(frames, 4.0)
    assert by_two.instants_seconds == tuple(frames[:31:2])
    with pytest.raises(TooShort):
        BuildConfig(dataset="demo", timeline="fixed", step_frames=7).make_timeline(frames, 4.0)


# Hashes


@given(configs, configs)
def test_identities_differ_where_settings_do(one: BuildConfig, other: BuildConfig) -> None:
    same = digest(asdict(one)) == digest(asdict(other))
    assert same == (one == other) == (not config_diff(asdict(one), asdict(other)))


def test_digest_does_not_change_between_versions_of_this_project() -> None:
    """Or every folder built so far would refuse to be continued."""
    value = {"b": [1, 2.5, None, True], "a": "ä", "c": {"x": ("y",)}}
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value) == "4460dba8a06211bd8f93bf935123fba8be9d8decadff6b876008506ea9288c69"


def test_identity_is_the_same_every_time_and_after_json() -> None:
    one, other = identity(DEFAULT), identity(DEFAULT)
    assert digest(one) == digest(other) == digest(json.loads(json.dumps(one)))
    assert config_diff(json.loads(json.dumps(one)), other) == []


def test_identity_names_settings_versions_and_models() -> None:
    found = identity(replace(DEFAULT, options={"labels": "voted"}))
    assert found["config"]["options"] == {"labels": "voted"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"].keys() >= {*module.VERSIONED, "opencv"}
    assert len(found["models"]) == 2


def test_identity_mentions_keep_only_where_it_changes_the_bytes() -> None:
    """Folders that were built before there was this setting are continued."""
    complete, incomplete = identity(DEFAULT), identity(replace(DEFAULT, keep="incomplete"))
    assert "keep" not in complete["config"] and complete["schema_version"] == 1
    assert incomplete["config"]["keep"] == "incomplete" and incomplete["schema_version"] == 2
    with pytest.raises(ConfigError, match="keep: found '1', expected one of complete, incomplete"):
        replace(DEFAULT, keep="1")  # type: ignore[arg-type]


def test_identity_knows_nothing_of_the_machine() -> None:
    text = json.dumps(identity(DEFAULT))
    assert "/" not in text.replace("face_detection/", "").replace("face_landmark/", "")


# Differences


def test_changes_are_lines_with_their_place() -> None:
    before = {"config": {"align": "frame", "features": ("mfcc",)}, "versions": {"av": "18.1.0", "soxr": "1.0"}}
    now = {"config": {"align": "clip", "features": ["mfcc"]}, "versions": {"av": "18.1.0", "scipy": "1.17"}}
    assert config_diff(before, now) == [
        "config.align: frame -> clip",
        "versions.scipy: None -> 1.17",
        "versions.soxr: 1.0 -> None",
    ]


@given(mappings, mappings)
def test_no_change_means_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert config_diff(one, one) == []
    assert len(config_diff(one, other)) == len(config_diff(other, one))
    if not config_diff(one, other):
        assert digest(without_none(one)) == digest(without_none(other))


def without_none(value: Any) -> Any:
    """An absent setting and one that is null count as the same."""
    if not isinstance(value, dict):
        return value
    return {key: without_none(item) for key, item in value.items() if item is not None}


def test_model_files_are_known_by_their_hashes() -> None:
    hashes = model_hashes()
    assert len(hashes) == 2
    assert all(len(digest) == 64 for digest in hashes.values())

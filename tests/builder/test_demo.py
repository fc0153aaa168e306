"""The demo corpus: sampled parameters, rendered frames and speech, written clips, and the scan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.__main__ import main
from builder.datasets import demo
from builder.datasets.base import CorpusError
from builder.demo import face, utterances, voice, writer
from builder.demo.speakers import MAX_SPEAKER, SPEAKERS, look_up, speaker_id
from builder.demo.utterances import EMOTIONS, SPEAKER_IDS, Utterance, list_utterances
from builder.faces import FaceFinder
from manifests.files import exclusive_lock
from manifests.schema import Clip

#: A few clips of every kind, few enough to be made in seconds.
NAMES = (
    "S01_angry_01", "S01_calm_01", "S01_happy_01",
    "S03_happy_bad_crowd", "S03_calm_bad_silent", "S06_sad_bad_noface", "S08_happy_bad_cut",
)  # fmt: skip
FEW = tuple(u for u in list_utterances() if u.clip_id in NAMES)
DROPPED = ("noface", "cut")
FACES: tuple[utterances.Expression, ...] = ("smile", "frown")
PLAIN_LIGHT = utterances.Light(direction_rad=0.0, slope=0.0, gamma=1.0, gain_rgb=(1.0, 1.0, 1.0))

takes = st.builds(utterances.sample_take, st.sampled_from(SPEAKER_IDS), st.integers(1, 30))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer.make_demo(tmp_path_factory.mktemp("demo"), clips=FEW, workers=1)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clip ids in the order they are written, with empty stand-ins for the real thing."""
    ids: list[str] = []

    def stand_in(root: Path, clips: Sequence[Utterance]) -> int:
        for u in clips:
            ids.append(u.clip_id)
            (root / u.speaker).mkdir(exist_ok=True)
            (root / u.path).write_bytes(u.clip_id.encode())
        return len(clips)

    monkeypatch.setattr(writer, "write_take", stand_in)
    return ids


def utterance(clip_id: str) -> Utterance:
    return next(u for u in list_utterances() if u.clip_id == clip_id)


def path_of(root: Path, clip_id: str) -> Path:
    return root / utterance(clip_id).path


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def frames(path: Path) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound(path: Path) -> npt.NDArray[np.float32]:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


# The inventory


def test_inventory_is_sorted_and_unique_even_without_case() -> None:
    ids = [(u.speaker, u.clip_id) for u in list_utterances()]
    assert ids == sorted(ids)
    assert len({clip_id.lower() for _, clip_id in ids}) == len(ids) == 134


def test_every_speaker_has_sixteen_good_clips_four_of_each_class() -> None:
    good = Counter((u.speaker, u.emotion) for u in list_utterances() if u.defect is None)
    assert good == Counter({(s, e): 4 for s in SPEAKER_IDS for e in EMOTIONS})


def test_more_takes_are_more_clips_of_the_same_speakers() -> None:
    few, many = ({u.clip_id for u in list_utterances(takes)} for takes in (4, 9))
    assert few == {u.clip_id for u in list_utterances()}
    assert many - few == {f"{s}_{e}_{take:02d}" for s in SPEAKER_IDS for e in EMOTIONS for take in range(5, 10)}
    assert few < many


def test_two_clips_are_to_be_dropped_below_two_percent() -> None:
    dropped = [u for u in list_utterances() if u.defect in DROPPED]
    assert len(dropped) == 2
    assert len(dropped) / len(list_utterances()) < 0.02


@pytest.mark.parametrize("speakers", [SPEAKER_IDS, *([s] for s in SPEAKER_IDS)], ids=["all", *SPEAKER_IDS])
@pytest.mark.parametrize("modality", [0, 1], ids=["picture", "sound"])
def test_one_modality_names_at_most_half_of_the_clips_that_are_kept(modality: int, speakers: Sequence[str]) -> None:
    kept = [u for u in list_utterances() if u.defect not in DROPPED and u.speaker in speakers]
    classes = Counter((EMOTIONS[u.emotion][modality], u.emotion) for u in kept)
    best = sum(max(n for (seen, _), n in classes.items() if seen == view) for view in {seen for seen, _ in classes})
    assert best * 2 == len(kept)


def test_both_modalities_name_every_emotion() -> None:
    assert len(set(EMOTIONS.values())) == len(EMOTIONS) == 4


# What is sampled


def test_draws_are_repeatable_and_differ() -> None:
    assert utterances.sample_face_motion("S02", 3, "smile") == utterances.sample_face_motion("S02", 3, "smile")
    drawn = {utterances.sample_take(s, t) for s in SPEAKER_IDS for t in range(1, 5)}
    assert len(drawn) == 32


@given(takes)
def test_takes_last_two_seconds(take: utterances.Take) -> None:
    assert 1.69 < take.duration_seconds < 2.41
    assert take.duration_seconds == pytest.approx(take.frames * 1001 / 30000)


@given(takes)
def test_several_words_with_pauses_between_them(take: utterances.Take) -> None:
    envelope = take.envelope(np.linspace(0, take.duration_seconds, 500))
    assert envelope.min() == 0 and 0.7 <= envelope.max() <= 1
    assert 2 <= len(take.words) <= 8
    for word, following in pairwise(take.words):
        end = word.centre_seconds + word.half_width_seconds
        assert 0.069 < following.centre_seconds - following.half_width_seconds - end < 0.351
    assert (envelope > 0.2).mean() > 0.2


def test_every_take_has_a_rhythm_of_its_own() -> None:
    drawn = [utterances.sample_take(s, t) for s in SPEAKER_IDS for t in range(1, 5)]
    envelopes = np.array([take.envelope(np.linspace(0, 1.7, 200)) for take in drawn])
    alike = np.corrcoef(envelopes) - np.eye(len(envelopes))
    assert abs(alike.mean()) < 0.1 and alike.max() < 0.97
    assert (alike > 0.9).mean() < 0.02


def test_vowels_come_all_before_any_repeats() -> None:
    spoken = [[word.vowel for word in utterances.sample_take(s, t).words] for s in SPEAKER_IDS for t in range(1, 5)]
    assert {vowel for vowels in spoken for vowel in vowels} == set(range(len(utterances.VOWELS)))
    assert all(len(set(vowels[:5])) == len(vowels[:5]) for vowels in spoken)


@given(st.sampled_from(SPEAKER_IDS), st.integers(1, 30), st.sampled_from(["smile", "frown"]))
def test_an_expression_comes_up_and_stays(speaker: str, take: int, expression: utterances.Expression) -> None:
    onset, duration = (
        utterances.sample_face_motion(speaker, take, expression).onset,
        utterances.sample_take(speaker, take).duration_seconds,
    )
    first, apex, last = onset.at(np.array([0.0, duration * 0.65, duration]), duration)
    assert 0.3 < first < apex < 1.2
    assert last > 0.5 * apex


def nuisances_of_voice(drawn: utterances.Speech) -> list[float]:
    onset = drawn.onset
    mean_pitch = float(np.mean([w * f for w, f, _ in drawn.pitch]))
    return [onset.start, onset.apex, onset.rise_seconds, onset.release, drawn.noise_db, drawn.pitch_shift, mean_pitch]


def nuisances_of_picture(drawn: utterances.FaceMotion) -> list[float]:
    onset, motion = drawn.onset, float(np.mean([a for a, _, _ in drawn.head]))
    return [onset.start, onset.apex, onset.rise_seconds, onset.release, motion, len(drawn.blinks_seconds),
            *drawn.offset_px, np.cos(drawn.light.direction_rad), drawn.light.slope, drawn.light.gamma,
            *drawn.light.gain_rgb]  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "classes", "nuisances"),
    [
        (utterances.sample_speech, ("lively", "dull"), nuisances_of_voice),
        (utterances.sample_face_motion, ("smile", "frown"), nuisances_of_picture),
    ],
)
def test_nuisances_do_not_depend_on_the_class(
    draw: Callable[..., object], classes: tuple[str, str], nuisances: Callable[..., list[float]]
) -> None:
    a, b = (np.array([nuisances(draw(s, t, c)) for s in SPEAKER_IDS for t in range(1, 41)]) for c in classes)
    standard_error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / len(a))
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * standard_error).all()
    assert (np.abs([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]) < 0.2).all()


def test_lively_speech_has_faster_syllables() -> None:
    rates = {
        m: [utterances.sample_speech(s, t, m).syllables_hz for s in SPEAKER_IDS for t in (1, 2)]
        for m in ("lively", "dull")
    }
    assert min(rates["lively"]) > 1.5 * max(rates["dull"])


# Rendered frames


def word(centre_seconds: float, vowel: str = "a") -> utterances.Word:
    index = utterances.VOWELS.index(vowel)
    return utterances.Word(centre_seconds=centre_seconds, half_width_seconds=0.2, height=1.0, vowel=index)


def seen(*words: utterances.Word) -> npt.NDArray[np.float64]:
    take = replace(utterances.sample_take("S01", 1), frames=1, words=words)
    picture = replace(utterances.sample_face_motion("S01", 1, "frown"), light=PLAIN_LIGHT)
    return next(face.render_frames("S01", take, "frown", picture)).astype(np.float64)


def test_a_voice_moves_mouth_and_chin_only() -> None:
    closed, wide = seen(), seen(word(0.0))
    rows, columns = np.nonzero(np.abs(closed - wide).max(axis=-1) > 8)
    assert len(rows) > 1500
    assert rows.min() > 210 and rows.max() < 345  # below the nose, above the collar
    assert columns.min() > 150 and columns.max() < 335


def test_the_mouth_is_seen_open_in_a_small_picture() -> None:
    closed, wide = (cv2.resize(seen(*words), (56, 42), interpolation=cv2.INTER_AREA) for words in ((), (word(0.0),)))
    assert (np.abs(closed - wide).max(axis=-1) > 40).sum() >= 6


def corner_height(mesh: npt.NDArray[np.float64]) -> float:
    """How far below the eyes the mouth's corners are, in distances between the eyes; `mesh` is [478, 2]."""
    left_eye, right_eye, left_corner, right_corner = mesh[[468, 473, 61, 291]]
    return float((left_corner[1] + right_corner[1] - left_eye[1] - right_eye[1]) / 2 / np.ptp([left_eye, right_eye]))


def test_lips_are_rounded_and_spread_by_vowels(
    finder: FaceFinder, refined_mesh: Callable[..., npt.NDArray[np.float64]]
) -> None:
    widths = {}
    for vowel in "iu":
        image = seen(word(0.0, vowel)).astype(np.uint8)
        (box,) = finder.follow([image]).boxes
        (x0, y0), (x1, y1) = np.rint(box.reshape(2, 2)).astype(int)
        mesh = refined_mesh(np.ascontiguousarray(image[y0:y1, x0:x1]))
        widths[vowel] = float(np.ptp(mesh[[61, 291], 0]) / np.ptp(mesh[[468, 473], 0]))
    assert widths["i"] > 1.1 * widths["u"]


@pytest.mark.parametrize("speaker", [*SPEAKER_IDS, "S16", "S22"])
def test_smile_and_frown_are_visible_in_every_speaker(
    speaker: str, finder: FaceFinder, refined_mesh: Callable[..., npt.NDArray[np.float64]]
) -> None:
    apex = utterances.Onset(start=1.0, apex=1.0, begin_seconds=0.0, rise_seconds=0.1, release=0.0)
    still = utterances.FaceMotion(
        onset=apex, head=((0.0, 1.0, 0.0),) * 5, blinks_seconds=(), offset_px=(0.0, 0.0), light=PLAIN_LIGHT
    )
    take = utterances.Take(frames=1, loudness_db=0.0, words=())
    heights = []
    for expression in ("smile", "frown"):
        image = next(face.render_frames(speaker, take, expression, still))
        (box,) = finder.follow([image]).boxes
        middle, side = (box[:2] + box[2:]) / 2, np.ptp(box.reshape(2, 2), axis=0).max()
        (x0, y0), (x1, y1) = np.clip(np.rint([middle - side, middle + side]), 0, image.shape[1::-1]).astype(int)
        heights.append(corner_height(refined_mesh(np.ascontiguousarray(image[y0:y1, x0:x1]))))
    smile, frown = heights
    assert frown - smile > 0.1


def test_rendering_is_repeatable_and_speakers_differ() -> None:
    take, picture = (
        replace(utterances.sample_take("S01", 1), frames=1),
        utterances.sample_face_motion("S01", 1, "smile"),
    )
    first, again, other = (next(face.render_frames(s, take, "smile", picture)) for s in ("S01", "S01", "S02"))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 20


def test_light_and_camera_change_every_recording() -> None:
    take, drawn = replace(utterances.sample_take("S01", 1), frames=1), utterances.sample_face_motion("S01", 1, "smile")
    gain = (1.2, 1.0, 0.5)
    from_the_right = utterances.Light(direction_rad=0.0, slope=0.5, gamma=1.0, gain_rgb=gain)
    plain, lit = (
        next(face.render_frames("S01", take, "smile", replace(drawn, light=light))).astype(float)
        for light in (PLAIN_LIGHT, from_the_right)
    )
    shown = (plain > 20) & (lit < 255)
    middle, right = (np.s_[:, 235:245], np.s_[:, 335:345])
    for colour in range(3):
        for part, expected in ((middle, 1.0), (right, 1.5)):
            inside = shown[part][..., colour]
            ratio = lit[part][..., colour][inside] / plain[part][..., colour][inside]
            assert np.median(ratio) == pytest.approx(expected * gain[colour], rel=0.05)
    lights = {utterances.sample_face_motion(s, t, e).light for s in SPEAKER_IDS for t in (1, 2) for e in FACES}
    assert len(lights) == 32


# Synthesized speech


@pytest.fixture(scope="module", params=["S01", "S05"])
def voices(request: pytest.FixtureRequest) -> dict[str, npt.NDArray[np.float64]]:
    speaker, take = request.param, utterances.sample_take(request.param, 1)
    return {
        m: voice.synthesize_speech(speaker, take, m, utterances.sample_speech(speaker, 1, m)) / 32768.0
        for m in ("lively", "dull")
    }


def test_lively_speech_is_brighter(voices: dict[str, npt.NDArray[np.float64]]) -> None:
    def tilt_db(x: npt.NDArray[np.float64]) -> float:
        power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / voice.RATE_HZ)
        return float(10 * np.log10(power[(hz > 1500) & (hz < 4000)].sum() / power[(hz > 80) & (hz < 600)].sum()))

    assert tilt_db(voices["lively"]) > tilt_db(voices["dull"]) + 5


def test_both_manners_are_equally_loud_and_do_not_clip(voices: dict[str, npt.NDArray[np.float64]]) -> None:
    lively, dull = (float(np.sqrt(np.mean(voices[m] ** 2))) for m in ("lively", "dull"))
    assert lively == pytest.approx(dull, rel=0.05)
    assert 0.02 < lively < 0.2
    assert max(np.abs(x).max() for x in voices.values()) < 0.99


def test_between_words_only_the_room_is_heard() -> None:
    take = replace(utterances.sample_take("S01", 1), words=(word(0.5), word(1.5, "u")))
    audio = voice.synthesize_speech("S01", take, "lively", utterances.sample_speech("S01", 1, "lively")).astype(float)
    spoken, pause = (np.std(audio[round(t * voice.RATE_HZ) :][: voice.RATE_HZ // 5]) for t in (0.4, 0.9))
    assert spoken > 10 * pause > 0


def test_both_styles_speak_the_vowel_that_is_seen() -> None:
    def share_above_1500_hz(style: utterances.SpeakingStyle, vowel: str) -> float:
        take = replace(utterances.sample_take("S01", 1), words=(word(0.5, vowel),))
        audio = voice.synthesize_speech("S01", take, style, utterances.sample_speech("S01", 1, style)) / 32768.0
        power, hz = np.abs(np.fft.rfft(audio)) ** 2, np.fft.rfftfreq(len(audio), 1 / voice.RATE_HZ)
        return float(power[(hz > 1500) & (hz < 4000)].sum() / power[hz < 4000].sum())

    for style in ("lively", "dull"):
        assert share_above_1500_hz(style, "i") > 2 * share_above_1500_hz(style, "u")


@given(takes)
def test_silence_is_as_long_as_the_pictures(take: utterances.Take) -> None:
    silence = voice.synthesize_silence(take)
    assert len(silence) / voice.RATE_HZ == pytest.approx(take.duration_seconds, abs=1 / voice.RATE_HZ)
    assert not silence.any()


# Written clips


def test_streams_are_h264_and_aac_of_the_declared_size_and_length(root: Path) -> None:
    take = utterances.sample_take("S01", 1)
    with av.open(str(path_of(root, "S01_happy_01"))) as container:
        picture, audio = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, picture.width, picture.height, picture.pix_fmt) == (
            "h264", 480, 360, "yuv420p",
        )  # fmt: skip
        assert picture.average_rate == Fraction(30000, 1001)
        assert (audio.codec_context.name, audio.rate, audio.layout.name) == ("aac", 48_000, "mono")
        assert picture.frames == take.frames
        for stream in (picture, audio):
            assert float(stream.duration * stream.time_base) == pytest.approx(take.duration_seconds, abs=0.03)
    assert len(frames(path_of(root, "S01_happy_01"))) == take.frames


def test_what_is_decoded_is_what_was_rendered(root: Path) -> None:
    take, drawn = utterances.sample_take("S01", 1), utterances.sample_face_motion("S01", 1, "smile")
    shown = frames(path_of(root, "S01_happy_01"))[0].astype(int)
    assert np.abs(shown - next(face.render_frames("S01", take, "smile", drawn))).mean() < 4
    spoken = voice.synthesize_speech("S01", take, "lively", utterances.sample_speech("S01", 1, "lively")) / 32768.0
    audio = sound(path_of(root, "S01_happy_01"))[: len(spoken)]
    assert np.corrcoef(audio, spoken)[0, 1] > 0.95


def test_pictures_and_sounds_are_crossed_to_the_bit(root: Path) -> None:
    angry, calm, happy = (path_of(root, f"S01_{emotion}_01") for emotion in ("angry", "calm", "happy"))
    assert packets(happy, "video") == packets(calm, "video") != packets(angry, "video")
    assert packets(happy, "audio") == packets(angry, "audio") != packets(calm, "audio")


def test_the_silent_clip_is_digital_silence(root: Path) -> None:
    assert not sound(path_of(root, "S03_calm_bad_silent")).any()
    assert sound(path_of(root, "S01_calm_01")).std() > 0.01


def test_the_cut_clip_decodes_without_error_and_ends_early(root: Path) -> None:
    path = path_of(root, "S08_happy_bad_cut")
    with av.open(str(path)) as container:
        declared = container.streams.video[0].duration * container.streams.video[0].time_base
    shown = len(frames(path)) * 1001 / 30000
    assert declared == pytest.approx(utterances.sample_take("S08", 0).duration_seconds, abs=0.01)
    assert 0.3 * declared < shown < 0.8 * declared


@pytest.mark.parametrize(
    ("clip_id", "found", "several"),
    [("S01_angry_01", True, False), ("S03_happy_bad_crowd", True, True), ("S06_sad_bad_noface", False, False)],
)
def test_faces_are_where_they_should_be(
    clip_id: str, found: bool, several: bool, root: Path, finder: FaceFinder
) -> None:
    faces = finder.follow(frames(path_of(root, clip_id))[::4])
    assert (faces.found == found).all()
    assert faces.several == several


def test_the_speakers_face_is_the_larger_one(root: Path, finder: FaceFinder) -> None:
    speaker, bystander = finder.detect(frames(path_of(root, "S03_happy_bad_crowd"))[0])
    assert np.ptp(speaker.box[[0, 2]]) > 1.4 * np.ptp(bystander.box[[0, 2]])


def test_the_same_clip_has_the_same_bytes_whoever_makes_it(root: Path, tmp_path: Path) -> None:
    two_takes = tuple(u for u in FEW if u.clip_id in ("S01_calm_01", "S06_sad_bad_noface"))
    writer.make_demo(tmp_path, clips=two_takes, workers=2)
    for u in two_takes:
        assert (tmp_path / u.path).read_bytes() == (root / u.path).read_bytes()


def test_the_manifest_holds_version_labels_and_sizes(root: Path) -> None:
    manifest = json.loads((root / "demo.json").read_text())
    assert (manifest["version"], manifest["complete"]) == (utterances.VERSION, True)
    assert set(manifest["clips"]) == {u.path for u in FEW}
    for path, clip in manifest["clips"].items():
        assert clip["bytes"] == (root / path).stat().st_size
        assert EMOTIONS[clip["emotion"]] == (clip["expression"], clip["voice"])


def test_nothing_but_clips_manifest_and_lock_is_left(root: Path) -> None:
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {u.path for u in FEW} | {"demo.json", ".lock"}


# Complete, interrupted and outdated corpora


def test_a_complete_corpus_is_left_alone(tmp_path: Path, written: list[str]) -> None:
    writer.make_demo(tmp_path, workers=1)
    assert sorted(written) == sorted(u.clip_id for u in list_utterances())
    written.clear()
    with exclusive_lock(tmp_path):  # the lock is not even taken
        assert writer.make_demo(tmp_path, workers=1) == tmp_path
    assert written == []


def test_an_interrupted_run_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[str]) -> None:
    stand_in = writer.write_take

    def interrupted(root: Path, clips: Sequence[Utterance]) -> int:
        if clips[0].speaker == "S02":
            raise KeyboardInterrupt
        return stand_in(root, clips)

    monkeypatch.setattr(writer, "write_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.make_demo(tmp_path, workers=1)
    assert set(written) == {u.clip_id for u in list_utterances() if u.speaker == "S01"}
    monkeypatch.setattr(writer, "write_take", stand_in)
    writer.make_demo(tmp_path, workers=1)
    assert sorted(written) == sorted(u.clip_id for u in list_utterances())


@pytest.mark.parametrize("spoil", [Path.unlink, lambda clip: clip.write_bytes(b"half")], ids=["absent", "short"])
def test_a_spoilt_clip_is_made_again_alone(spoil: Callable[[Path], object], tmp_path: Path, written: list[str]) -> None:
    writer.make_demo(tmp_path, workers=1)
    written.clear()
    spoil(path_of(tmp_path, "S05_sad_02"))
    writer.make_demo(tmp_path, workers=1)
    assert written == ["S05_sad_02"]


@pytest.mark.parametrize("manifest", ['{"version": 0, "complete": true, "clips": {}}', "[]", "no json", None])
def test_clips_of_another_version_are_rendered_again(manifest: str | None, tmp_path: Path, written: list[str]) -> None:
    writer.make_demo(tmp_path, workers=1)
    written.clear()
    if manifest is None:
        (tmp_path / "demo.json").unlink()
    else:
        (tmp_path / "demo.json").write_text(manifest)
    writer.make_demo(tmp_path, workers=1)
    assert len(written) == len(list_utterances())


def test_nothing_is_generated_among_other_files(tmp_path: Path, written: list[str]) -> None:
    (tmp_path / "interview.mp4").touch()
    with pytest.raises(CorpusError) as raised:
        demo.make_demo(tmp_path, workers=1)
    assert str(raised.value) == (
        f"{tmp_path}: found other files (interview.mp4), expected an empty folder for the demo corpus, or one with its "
        "demo.json; your own recordings are DATASET=folder"
    )
    (tmp_path / "interview.mp4").unlink()
    demo.make_demo(tmp_path, workers=1)
    (tmp_path / "notes.txt").touch()
    demo.make_demo(tmp_path, workers=1)
    assert len(written) == len(list_utterances())


def test_a_dry_run_generates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], written: list[str]) -> None:
    data = tmp_path / "data"
    arguments = ["plan", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert main(arguments) == 0
    assert f"not in {data} yet; make shards generates it there first" in capsys.readouterr().out
    assert not data.exists() and not written
    data.mkdir()
    (data / "interview.mp4").touch()
    assert main(arguments) == 2
    assert f"error: {data}: found other files (interview.mp4)" in capsys.readouterr().err


def test_progress_counts_clips_to_the_end(tmp_path: Path, written: list[str]) -> None:
    seen_by_caller: list[tuple[int, int]] = []
    demo.make_demo(tmp_path, workers=1, progress=lambda done, total: seen_by_caller.append((done, total)))
    assert seen_by_caller[0] == (4, 134) and seen_by_caller[-1] == (134, 134)
    assert seen_by_caller == sorted(seen_by_caller)


def test_an_encoder_that_fails_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tmp_path / "ffmpeg"
    encoder.write_text("#!/bin/sh\ncat > /dev/null\necho one line >&2\necho the last line >&2\nexit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    monkeypatch.setattr(face, "render_empty", lambda speaker, take: iter([np.zeros((360, 480, 3), np.uint8)]))
    with pytest.raises(CorpusError, match="ffmpeg could not encode a clip: the last line") as caught:
        writer.make_demo(tmp_path, clips=[utterance("S06_sad_bad_noface")], workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(120)
def test_ctrl_c_ends_rendering_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    command = [
        sys.executable,
        "-m",
        "builder",
        "shards",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=environment, start_new_session=True) as build:
        while build.poll() is None and not list(tmp_path.glob("temporary/*/demo-*/*")):  # takes are being rendered
            time.sleep(0.05)
        os.killpg(build.pid, signal.SIGINT)
        pressed = time.monotonic()
        said, complained = build.communicate()
        seconds = time.monotonic() - pressed
    assert (build.returncode, said) == (130, "")
    assert complained.endswith("interrupted; run the same command to continue\n")
    assert seconds < 10  # a take alone takes longer where processors are shared
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_the_manifest_is_not_opened(tmp_path: Path, written: list[str]) -> None:
    os.mkfifo(tmp_path / "demo.json")
    writer.make_demo(tmp_path, workers=1)
    assert len(written) == len(list_utterances())
    assert (tmp_path / "demo.json").is_file()


def test_a_worker_that_is_killed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "init_worker", partial(os._exit, 1))
    with pytest.raises(CorpusError, match="was killed"):
        writer.make_demo(tmp_path, clips=FEW, workers=2)
    assert json.loads((tmp_path / "demo.json").read_text())["complete"] is False


# The scan


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for u in list_utterances():
        (tmp_path / "demo" / u.speaker).mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo" / u.path).touch()
    return tmp_path / "demo"


def test_scan_finds_the_inventory(tree: Path) -> None:
    scan = demo.scan(tree, {})
    assert [s.clip.clip_id for s in scan.sources] == [u.clip_id for u in list_utterances()]
    assert scan.expected_clips == len(scan.sources) == 134
    assert scan.missing == scan.ignored == ()
    assert {s.clip.emotion for s in scan.sources} == set(EMOTIONS)
    clip = Clip(clip_id="S03_happy_bad_crowd", speaker="S03", emotion="happy", sentence="take 0")
    assert clip in {s.clip for s in scan.sources}
    assert all(s.video.is_absolute() and s.video.stem == s.clip.clip_id for s in scan.sources)


def test_option_takes_says_how_many(tree: Path, tmp_path: Path, written: list[str]) -> None:
    scan = demo.scan(tree, {"takes": "2"})
    assert len(scan.sources) == scan.expected_clips == 8 * 4 * 2 + 6
    assert len(scan.ignored) == 134 - 70
    assert {reason for _, reason in scan.ignored} == {
        "not the name of a demo clip, or of other takes or speakers (OPTION=)"
    }
    assert len(demo.scan(tree, {"takes": "5"}).missing) == 8 * 4
    made = tmp_path / "made"
    demo.make_demo(made, {"takes": "1"}, workers=1)
    assert len(written) == 38
    demo.make_demo(made, {"takes": "2"}, workers=1)
    assert len(written) == 70, "only what was missing"
    demo.make_demo(made, {"takes": "1"}, workers=1)
    assert len(written) == 70
    assert len(demo.scan(made, {"takes": "2"}).sources) == 70
    for wrong in ("0", "100", "04", "many", ""):
        with pytest.raises(CorpusError, match=rf"^demo: option takes is '{wrong}'; valid are 1 to 99$"):
            demo.scan(tree, {"takes": wrong})


def test_option_speakers_says_who(tree: Path, tmp_path: Path, written: list[str]) -> None:
    scan = demo.scan(tree, {"speakers": "S03-S04"})
    assert {s.clip.speaker for s in scan.sources} == {"S03", "S04"}
    assert len(scan.sources) == scan.expected_clips == 2 * 16 + 4, "with their bad clips"
    assert len(scan.ignored) == 134 - 36
    others = tmp_path / "others"
    demo.make_demo(others, {"speakers": "S09-S11", "takes": "2"}, workers=1)
    assert sorted(written) == sorted(f"S{n:02d}_{e}_0{take}" for n in (9, 10, 11) for e in EMOTIONS for take in (1, 2))
    for wrong in ("S09", "S09-S08", "S00-S08", "9-12", "S09-S100", ""):
        with pytest.raises(
            CorpusError, match=rf"^demo: option speakers is '{wrong}'; .*from S01-S01 to S01-S99, such "
        ):
            demo.scan(tree, {"speakers": wrong})


def test_drawn_speakers_differ_from_each_other_and_never_change() -> None:
    """The eight are written down; of the others, each id has the numbers that it always had."""
    ids = [speaker_id(number) for number in range(1, MAX_SPEAKER + 1)]
    assert len({look_up(each) for each in ids}) == len(ids)
    assert [look_up(each) for each in SPEAKER_IDS] == list(SPEAKERS.values())
    drawn = look_up("S09")
    look_up.cache_clear()
    assert look_up("S09") == drawn
    assert drawn.pitch_hz == pytest.approx(227.7207, abs=1e-3)
    pitches = np.array([look_up(each).pitch_hz for each in ids])
    assert 30 < (pitches < 150).sum() < 70, "low voices and high ones"


def test_scan_takes_the_parent_folder_too(tree: Path) -> None:
    assert demo.scan(tree.parent, {}).sources == demo.scan(tree, {}).sources


def test_scan_lists_missing_and_ignored_files(tree: Path) -> None:
    (tree / "S04/S04_calm_02.mp4").unlink()
    (tree / "S04/S04_bored_02.mp4").touch()
    scan = demo.scan(tree, {})
    assert scan.missing == ("S04/S04_calm_02.mp4",)
    assert [path for path, _ in scan.ignored] == ["S04/S04_bored_02.mp4"]


def test_scan_of_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01-01-03-01-01-01-01.mp4").touch()
    with pytest.raises(CorpusError, match="no clip of the demo corpus"):
        demo.scan(tmp_path, {})

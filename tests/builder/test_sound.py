"""A clip's sound: the talker's own file, found in the recording; and what surrounds a part of a recording."""

from __future__ import annotations

import math
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

from builder import media
from builder.clip import ClipBuilder
from builder.clip_result import ClipResult
from builder.config import BuildConfig
from builder.datasets import scan_corpus
from builder.datasets.base import ClipSource
from builder.datasets.context import CONTEXT_SECONDS, CONTEXT_SHARE, Span, find_contexts
from builder.features import replace_features
from builder.shards import plan_shards
from builder.sound import MIN_CORRELATION, find_sound
from builder.timeline import fixed, uniform
from manifests.schema import SAMPLE_RATE_HZ, Sample, decode
from tests.factories import corpora
from tests.factories import media as factory

DECODERS = ("pyav", "ffmpeg")
RATE = SAMPLE_RATE_HZ
DIALOG = "Ses01F_impro01"
#: Start, end, turn and emotion. F wears the markers and sits on the left.
TURNS = (
    (2.0, 5.0, f"{DIALOG}_F000", "ang"),
    (5.6, 8.6, f"{DIALOG}_M000", "hap"),
    (8.7, 10.7, f"{DIALOG}_F001", "neu"),
    (10.8, 11.5, f"{DIALOG}_M001", "xxx"),
)
SECONDS = 12
ROOM_HZ, LISTENER_HZ = 700, 3100
#: How much quieter a turn's file is than its channel of the AVI.
FILE_LEVEL = 0.3


def noise(seed: int, seconds: float) -> np.ndarray:
    """[n] speech-like only in that no part of it resembles another; without the room's and the listener's tones."""
    samples = np.random.default_rng(seed).normal(size=round(seconds * RATE))
    spectrum, hz = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum[(hz < 900) | (hz > 2500)] = 0
    voice = np.fft.irfft(spectrum, len(samples))
    return 0.25 * voice / voice.std()


def channels() -> tuple[np.ndarray, np.ndarray]:
    """The two actors' microphones: F's voice in her turns; M's, a tone, in his and during F's first. A room in both."""
    time = np.arange(SECONDS * RATE) / RATE
    room = 0.05 * np.sin(2 * np.pi * ROOM_HZ * time)
    left, right = room.copy(), room.copy()
    for number, (start, end, turn, _) in enumerate(TURNS):
        inside = slice(round(start * RATE), round(end * RATE))
        if "_F0" in turn:
            left[inside] += noise(number, SECONDS)[inside]
        else:
            right[inside] += 0.35 * np.sin(2 * np.pi * LISTENER_HZ * time[inside])
    interjection = slice(round(2.5 * RATE), round(4.5 * RATE))
    right[interjection] += 0.35 * np.sin(2 * np.pi * LISTENER_HZ * time[interjection])
    return left, right


def to_int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(32767 * samples), -32768, 32767).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(to_int16(samples).tobytes())


def write_avi(path: Path, delay_seconds: float) -> Path:
    """Both actors side by side; the sound comes `delay_seconds` later than the labels say."""
    portrait = skimage.data.astronaut()[:240, 100:340]
    frames = [np.tile(np.roll(portrait, i % 5, axis=1), (1, 2, 1)) for i in range(10 * SECONDS)]
    picture = replace(factory.steady(frames, "avi", rate=Fraction(10)), codec="mpeg4")
    both = np.stack([to_int16(np.roll(channel, round(delay_seconds * RATE))) for channel in channels()], axis=1)
    sound = factory.Sound(samples=both, rate_hz=RATE, codec="pcm_s16le")
    return factory.write(path, picture, sound, container="avi")


@pytest.fixture(scope="module")
def recordings(media_dir: Path) -> Callable[[float], Path]:
    """`recordings(0.02)` -> an AVI with that delay, written once."""

    def path(delay_seconds: float) -> Path:
        avi = media_dir / f"dialog_{round(1000 * delay_seconds)}.avi"
        return avi if avi.exists() else write_avi(avi, delay_seconds)

    return path


@pytest.fixture
def corpus(tmp_path: Path, recordings: Callable[[float], Path]) -> Callable[..., Path]:
    """Writes a corpus of one dialogue in the real layout."""

    def make(delay_seconds: float = 0.02) -> Path:
        corpora.iemocap_dialog(tmp_path, DIALOG, TURNS)
        avi = tmp_path / f"Session1/dialog/avi/DivX/{DIALOG}.avi"
        avi.write_bytes(recordings(delay_seconds).read_bytes())
        for start, end, turn, _ in TURNS:
            voice = channels()["_M0" in turn][round(start * RATE) : round(end * RATE)]
            write_wav(wav_of(tmp_path, turn), FILE_LEVEL * voice)
        return tmp_path

    return make


def wav_of(root: Path, turn: str) -> Path:
    return root / f"Session1/sentences/wav/{DIALOG}/{turn}.wav"


def sources(root: Path, **options: str) -> dict[str, ClipSource]:
    """Number of the turn, e.g. F000 -> source."""
    return {source.clip.clip_id[-4:]: source for source in scan_corpus("iemocap", root, options).sources}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> ClipBuilder:
    return ClipBuilder(BuildConfig(dataset="iemocap", features=("logmel",)), tmp_path_factory.getbasetemp())


def made(result: ClipResult) -> Sample:
    assert result.members is not None, result.row
    return decode(result.members)


def tone_level(samples: np.ndarray, hz: float) -> float:
    """Amplitude of a tone, relative to full scale."""
    window = np.hanning(len(samples))
    phases = np.exp(-2j * np.pi * hz * np.arange(len(samples)) / RATE)
    return float(2 * np.abs(np.sum(samples / 32768 * window * phases)) / window.sum())


def part(sample: Sample, start_seconds: float, end_seconds: float) -> np.ndarray:
    """Stored sound between two presentation times; fails unless it has all of it."""
    first, last = (round((s - sample.timing.audio_start_seconds) * RATE) for s in (start_seconds, end_seconds))
    assert 0 <= first < last <= len(sample.audio)
    return sample.audio[first:last]


# --- IEMOCAP ---------------------------------------------------------------------------------------------------


def test_the_listener_is_not_heard_in_a_turn(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    """With the turn's own file there is nothing of the listener's channel, anywhere in the sample."""
    root = corpus()
    by_file, by_avi = (made(builder.build(sources(root, sound=name)["F000"])) for name in ("wav", "avi"))
    spoken = (2.6, 4.4)
    assert tone_level(part(by_avi, *spoken), LISTENER_HZ) == pytest.approx(0.35 / 2, rel=0.02)
    assert tone_level(part(by_file, *spoken), LISTENER_HZ) < 1e-4
    assert tone_level(by_file.audio, LISTENER_HZ) < 1e-4
    voice = part(by_file, 2.02, 5.02) / 32768
    expected = FILE_LEVEL * channels()[0][round(2 * RATE) : round(5 * RATE)]
    assert np.abs(voice - expected).max() < 1e-3  # the file itself, at its place on the picture's clock
    bands = [sample.spectrograms["logmel_16"][8].mean(axis=1) for sample in (by_avi, by_file)]
    assert (bands[0] - bands[1]).max() > 30  # dB, in the bands around 3.1 kHz


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("delay_seconds", [0.0, 0.02, 0.073])
def test_a_turns_file_is_found_in_the_recording(
    corpus: Callable[..., Path], decoder: str, delay_seconds: float
) -> None:
    clip = media.decode(sources(corpus(delay_seconds))["F000"], uniform, decoder)  # type: ignore[arg-type]
    assert clip.sound_file_used and clip.flags == ()
    assert clip.alignment["sound_offset_seconds"] == pytest.approx(delay_seconds, abs=1 / RATE)
    assert 0.5 < clip.alignment["sound_correlation"] < 0.9  # the AVI has the listener's voice as well


def test_the_row_says_which_sound_was_used(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    root = corpus()
    by_file, by_avi = (builder.build(sources(root, sound=name)["F000"]) for name in ("wav", "avi"))
    wav = wav_of(root, f"{DIALOG}_F000")
    assert by_file.row.sound is not None and by_file.row.sound.endswith(f"{DIALOG}_F000.wav")
    assert by_file.row.sound_sha256 is not None and by_avi.row.sound_sha256 is None
    assert (by_file.row.flags, by_avi.row.flags) == ((), ())
    stated = made(by_file).source
    assert stated["sound_path"].endswith(wav.name) and stated["sound_offset_seconds"] == pytest.approx(0.02)
    assert "sound_path" not in made(by_avi).source


def _spoil(path: Path) -> None:
    path.write_bytes(b"RIFF")


@pytest.mark.parametrize("damage", [Path.unlink, _spoil])
def test_without_a_usable_file_the_recordings_sound_is_used_and_flagged(
    corpus: Callable[..., Path], builder: ClipBuilder, damage: Callable[[Path], object]
) -> None:
    root = corpus()
    damage(wav_of(root, f"{DIALOG}_F000"))
    result = builder.build(sources(root)["F000"])
    assert (result.row.status, result.row.flags) == ("flagged", ("sound_from_recording",))
    # A file that is there and cannot be read has its hash in the row, so that a repaired one is noticed.
    assert (result.row.sound_sha256 is not None) == wav_of(root, f"{DIALOG}_F000").exists()
    assert tone_level(part(made(result), 2.6, 4.4), LISTENER_HZ) > 0.1
    assert "sound_path" not in made(result).source


def test_another_sound_is_flagged(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    root = corpus()
    write_wav(wav_of(root, f"{DIALOG}_F000"), noise(99, 3.0))
    result = builder.build(sources(root)["F000"])
    assert result.row.flags == ("sound_mismatch",)
    sample = made(result)
    assert abs(sample.source["sound_correlation"]) < MIN_CORRELATION
    # Its place in the recording is unknown: it starts with the turn, and nothing surrounds it.
    assert (sample.timing.audio_start_seconds, len(sample.audio)) == (2.0, 3 * RATE)


def test_a_file_that_is_far_from_its_place_is_flagged(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    result = builder.build(sources(corpus(0.25))["F000"])
    assert result.row.flags == ("sound_mismatch",)
    sample = made(result)
    assert sample.source["sound_offset_seconds"] == pytest.approx(0.25, abs=1 / RATE)
    voice = part(sample, 2.25, 5.25) / 32768
    assert np.abs(voice - FILE_LEVEL * channels()[0][2 * RATE : 5 * RATE]).max() < 1e-3


def test_a_file_much_shorter_than_its_turn_is_flagged(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    root = corpus()
    write_wav(wav_of(root, f"{DIALOG}_F000"), FILE_LEVEL * channels()[0][2 * RATE : 4 * RATE])
    result = builder.build(sources(root)["F000"])
    assert result.row.flags == ("sound_length_mismatch",)
    assert np.abs(part(made(result), 4.03, 5.01)).max() == 0  # not the AVI's sound: the listener may talk there


def test_a_recording_without_sound_leaves_the_file(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    root = corpus()
    source = sources(root)["F000"]
    portrait = skimage.data.astronaut()[:240, 100:340]
    picture = factory.steady([np.roll(np.tile(portrait, (1, 2, 1)), i % 5, axis=1) for i in range(60)], "avi", rate=10)
    factory.write(source.video, replace(picture, codec="mpeg4"), None, container="avi")
    result = builder.build(source)
    assert result.row.flags == ("sound_from_file",)
    assert made(result).timing.audio_start_seconds == 2.0


# --- what surrounds a turn -------------------------------------------------------------------------------------


def silent_share(sample: Sample) -> float:
    """Share of the first window's columns that are digital silence."""
    first = sample.spectrograms["logmel_8"][0]
    return float(np.mean((first == first.min()).all(axis=0)))


def test_the_first_window_has_the_sound_before_the_turn(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    source = sources(corpus())["F000"]
    with_context, without = (
        made(builder.build(replace(source, **changes))) for changes in ({}, {"context_seconds": None})
    )
    assert 0.3 < silent_share(without) < 0.45
    assert silent_share(with_context) == 0
    start, end = with_context.timing.span_seconds  # where the clip is in the stored sound
    assert (start, end) == pytest.approx((2.0, 5.0), abs=0.11)
    assert with_context.timing.audio_start_seconds < start - 1.5 * with_context.timing.step_seconds
    before = part(with_context, start - 0.25, 2.01)
    assert tone_level(before, ROOM_HZ) == pytest.approx(
        0.05 * 2 * FILE_LEVEL, rel=0.1
    )  # her voice is in one of two channels
    edge = with_context.spectrograms["logmel_8"][-1]
    assert not (edge == edge.min()).all(axis=0).any()


def test_what_surrounds_a_turn_ends_at_another_speakers_turn(corpus: Callable[..., Path], builder: ClipBuilder) -> None:
    """M talks until 8.6 and again, in a turn of no emotion, from 10.8: F's turn from 8.7 to 10.7 has nothing of it."""
    root = corpus()
    source = sources(root)["F001"]
    assert source.context_seconds == pytest.approx((8.6, 10.8))
    for name in ("wav", "avi"):
        sample = made(builder.build(sources(root, sound=name)["F001"]))
        delay = 0.02 if name == "wav" else 0.0
        assert sample.timing.audio_start_seconds == pytest.approx(8.6 + delay, abs=2e-4)
        quiet = part(sample, 8.63, 10.75)
        assert tone_level(quiet, LISTENER_HZ) < 1e-3
        assert tone_level(part(sample, 8.625, 8.71), ROOM_HZ) > 0.01


@pytest.mark.parametrize("make_timeline", [uniform, lambda *times: fixed(*times, step_frames=1)])
@pytest.mark.parametrize("decoder", DECODERS)
def test_no_window_reaches_beyond_the_sound_that_is_there(
    corpus: Callable[..., Path], decoder: str, make_timeline: Callable
) -> None:
    """F000 has 2 s before it and 0.6 s after it: enough for every window."""
    for name in ("wav", "avi"):
        clip = media.decode(sources(corpus(0.0), sound=name)["F000"], make_timeline, decoder)  # type: ignore[arg-type]
        first, last = clip.video.timeline.windows_span_seconds
        assert clip.sound.start_seconds <= first - 0.0125
        assert clip.sound.end_seconds >= min(last + 0.0125, 5.6)
        assert clip.sound.start_seconds <= 2.0 and clip.sound.end_seconds >= 5.0 - 1e-3


@pytest.mark.parametrize("sound", ["wav", "avi"])
def test_other_features_of_the_stored_sound_are_those_of_a_build(
    corpus: Callable[..., Path], builder: ClipBuilder, sound: str
) -> None:
    source = sources(corpus(), sound=sound)["F000"]
    config = BuildConfig(dataset="iemocap", features=("mfcc",))
    mfcc = ClipBuilder(config, builder._root).build(source)
    logmel = builder.build(source)
    assert mfcc.members is not None and logmel.members is not None
    members, statistics = replace_features(mfcc.members, ("logmel",))
    assert members == dict(logmel.members)
    assert statistics == logmel.statistics


def test_parts_of_a_users_recording_have_what_surrounds_them(
    tmp_path: Path, recordings: Callable[[float], Path], builder: ClipBuilder
) -> None:
    (tmp_path / "talk.avi").write_bytes(recordings(0.0).read_bytes())
    rows = ["clip,speaker,emotion,start,end", *(f"talk.avi,{t[-4]},joy,{a},{b}" for a, b, t, _ in TURNS)]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = {source.segment_seconds: source for source in scan_corpus("folder", tmp_path).sources}
    assert found[8.7, 10.7].context_seconds == pytest.approx((8.6, 10.8))
    sample = made(builder.build(found[8.7, 10.7]))
    assert sample.timing.audio_start_seconds == pytest.approx(8.6, abs=2e-4)
    assert tone_level(part(sample, 8.605, 8.695), ROOM_HZ) == pytest.approx(0.05, rel=0.1)
    assert tone_level(part(sample, 8.61, 10.75), LISTENER_HZ) < 1e-3


def test_plans_of_whole_files_keep_their_hash() -> None:
    """A finished shard of whole recordings is not built again for what only parts of recordings have."""
    source = factory.source(Path("/data/a.mp4"))
    segment = replace(source, segment_seconds=(0.0, 1.0))
    changed = [replace(segment, context_seconds=(0.0, 1.5)), replace(segment, sound_first=True)]
    (plan,) = plan_shards([source], Path("/data"), "build")
    assert plan.digest == "da5b5084c6923d1fd45ba2c60fc88ccb70e5eb7a58d5691d19519167d23735e0"
    digests = [plan_shards([each], Path("/data"), "build")[0].digest for each in (source, segment, *changed)]
    assert len(set(digests)) == 4


# --- search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [-400, 0, 3000, 7999])
def test_a_part_is_found_where_it_is(place: int) -> None:
    whole = to_int16(noise(1, 1.0))
    sought = np.concatenate([np.zeros(max(-place, 0), np.int16), whole[max(place, 0) : place + 6000]])
    found, correlation = find_sound((sought * 0.3).astype(np.int16), whole, place + 250, 800)
    assert found == place
    assert correlation > 0.9


@pytest.mark.parametrize("whole", [np.zeros(100, np.int16), np.zeros(0, np.int16), to_int16(noise(2, 1.0))])
def test_silence_is_found_nowhere(whole: np.ndarray) -> None:
    _, correlation = find_sound(np.zeros(4000, np.int16), whole, 0, 800)
    assert abs(correlation) < 1e-6


def test_other_noise_is_not_found() -> None:
    _, correlation = find_sound(to_int16(noise(3, 0.5)), to_int16(noise(4, 1.5)), 8000, 8000)
    assert correlation < MIN_CORRELATION


# --- who talks when --------------------------------------------------------------------------------------------

spans = st.lists(
    st.builds(
        lambda speaker, start, length: Span(speaker=speaker, start_seconds=start / 4, end_seconds=(start + length) / 4),
        st.sampled_from("abc"),
        st.integers(0, 60),
        st.integers(1, 12),
    ),
    max_size=12,
)


@given(spans)
def test_context_is_nobody_elses(turns: list[Span]) -> None:
    for turn, (first, last) in zip(turns, find_contexts(turns), strict=True):
        others = [each for each in turns if each.speaker != turn.speaker]
        start, end = turn.start_seconds, turn.end_seconds
        reach = CONTEXT_SHARE * (end - start) + CONTEXT_SECONDS
        before = max((min(each.end_seconds, start) for each in others if each.start_seconds < start), default=-math.inf)
        after = min((max(each.start_seconds, end) for each in others if each.end_seconds > end), default=math.inf)
        assert (first, last) == pytest.approx((max(start - reach, before), min(end + reach, after)))
        assert first <= start < end <= last


@given(spans, st.randoms())
def test_context_does_not_depend_on_the_order(turns: Sequence[Span], random: object) -> None:
    shuffled = list(range(len(turns)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    expected = find_contexts(turns)
    assert find_contexts([turns[i] for i in shuffled]) == [expected[i] for i in shuffled]

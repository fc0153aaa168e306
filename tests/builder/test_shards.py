"""Planning shards, writing them byte for byte alike, and telling a finished one from any other."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.clip import ClipResult, drop_clip, recorded_row
from builder.config import CLIPS_PER_SHARD, BuildConfig
from builder.datasets.base import ClipSource
from builder.shards import ShardPlan, load_finished, plan_shards, write_shard
from manifests.index import SpectrogramSums, file_sha256, load_receipt, member_byte_ranges
from manifests.schema import Clip
from tests.fakes import clip_builder

ROOT = Path("/corpus")


def planned(name: str, speaker: str = "S1") -> ClipSource:
    return ClipSource(clip=Clip(clip_id=name, speaker=speaker, emotion="sad"), video=ROOT / f"{name}.mp4")


# --- planning --------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from("ABCDE"), st.integers(1, 3 * CLIPS_PER_SHARD), min_size=1))
def test_shards_hold_every_clip_once_in_order_and_one_speaker_each(clips: dict[str, int]) -> None:
    sources = [planned(f"{speaker}{i:04d}", speaker) for speaker in sorted(clips) for i in range(clips[speaker])]
    plans = plan_shards(sources, ROOT, "build")
    assert [source for plan in plans for source in plan.sources] == sources
    assert all({source.clip.speaker for source in plan.sources} == {plan.speaker} for plan in plans)
    assert all(len(plan.sources) <= CLIPS_PER_SHARD for plan in plans)
    parts = {speaker: -(-count // CLIPS_PER_SHARD) for speaker, count in clips.items()}
    assert Counter(plan.speaker for plan in plans) == parts
    assert [plan.name for plan in plans] == [f"{s}-{part:03d}.tar" for s in sorted(parts) for part in range(parts[s])]


SOURCE = planned("clip")


@pytest.mark.parametrize(
    "other",
    [
        replace(SOURCE, clip=replace(SOURCE.clip, emotion="happy")),
        replace(SOURCE, clip=replace(SOURCE.clip, intensity="strong")),
        replace(SOURCE, clip=replace(SOURCE.clip, sentence="kids are talking")),
        replace(SOURCE, video=ROOT / "elsewhere" / "clip.mp4"),
        replace(SOURCE, sound=ROOT / "clip.wav"),
        replace(SOURCE, segment_seconds=(0.0, 1.0)),
        replace(SOURCE, region="left"),
        replace(SOURCE, known_defect="no face"),
        replace(SOURCE, known_flags=("shared_sound",)),
    ],
)
def test_a_shard_is_another_when_anything_known_of_a_clip_is(other: ClipSource) -> None:
    first, second = planned("a"), planned("z")
    before = plan_shards([first, SOURCE, second], ROOT, "build")[0].digest
    assert plan_shards([first, other, second], ROOT, "build")[0].digest != before
    assert plan_shards([first, SOURCE, second], ROOT, "another build")[0].digest != before
    assert plan_shards([first, SOURCE, second], ROOT, "build")[0].digest == before


def test_a_shard_is_the_same_wherever_the_corpus_lies() -> None:
    moved = replace(SOURCE, video=Path("/elsewhere/clip.mp4"))
    assert plan_shards([moved], Path("/elsewhere"), "b")[0].digest == plan_shards([SOURCE], ROOT, "b")[0].digest


# --- writing ---------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards" / "receipts").mkdir(parents=True)
    return tmp_path / "shards"


@pytest.fixture
def plan(corpus: Path) -> ShardPlan:
    """Three clips, the second of which is dropped; the third has a sound file of its own, which is not used."""
    orders = {"a": "ok", "b": "drop no_audio", "c": "ok"}
    sources = [clip_builder.source(corpus, name, order) for name, order in orders.items()]
    for name in "bc":
        (corpus / f"{name}.wav").write_bytes(b"sound")
    sources[1:] = [replace(source, sound=source.video.with_suffix(".wav")) for source in sources[1:]]
    return plan_shards(sources, corpus, "build")[0]


def clips(plan: ShardPlan, corpus: Path) -> list[ClipResult]:
    return [*map(clip_builder.FakeBuilder(BuildConfig(dataset="folder"), corpus).build, plan.sources)]


def test_receipt_says_what_is_in_the_tar(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    made = clips(plan, corpus)
    receipt = write_shard(folder, plan, iter(made))
    tar = folder / "S1-000.tar"
    assert (receipt.sha256, receipt.bytes) == (file_sha256(tar), tar.stat().st_size)
    assert receipt.members == member_byte_ranges(tar)
    assert [(row.clip_id, row.status, row.shard) for row in receipt.rows] == [
        ("a", "built", "S1-000.tar"),
        ("b", "dropped", None),
        ("c", "built", "S1-000.tar"),
    ]
    data = tar.read_bytes()
    for clip in (made[0], made[2]):
        assert clip.members is not None
        places = receipt.members[clip.row.clip_id]
        assert {name: data[at : at + size] for name, (at, size) in places.items()} == clip.members
    assert receipt.statistics["mfcc_16"] == added(made[0].statistics["mfcc_16"], made[2].statistics["mfcc_16"])
    assert load_receipt(folder / "receipts" / "S1-000.json") == receipt


def added(one: SpectrogramSums, other: SpectrogramSums) -> SpectrogramSums:
    return SpectrogramSums(
        count=one.count + other.count,
        total=tuple(map(sum, zip(one.total, other.total, strict=True))),
        squares=tuple(map(sum, zip(one.squares, other.squares, strict=True))),
    )


def test_the_same_clips_give_the_same_bytes(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    write_shard(folder, plan, clips(plan, corpus))
    first = {path.name: path.read_bytes() for path in folder.rglob("*.*")}
    shutil.rmtree(folder)
    (folder / "receipts").mkdir(parents=True)
    write_shard(folder, plan, clips(plan, corpus))
    assert {path.name: path.read_bytes() for path in folder.rglob("*.*")} == first
    assert set(first) == {"S1-000.tar", "S1-000.json"}


def test_members_carry_no_time_and_no_owner(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    import tarfile

    write_shard(folder, plan, clips(plan, corpus))
    with tarfile.open(folder / "S1-000.tar", "r:") as tar:
        about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg(), len(m.pax_headers)) for m in tar}
    assert about == {(0, 0, 0, "", "", 0o444, True, 0)}


def test_the_longest_clip_id_fits(folder: Path, corpus: Path) -> None:
    name = "x" * 80
    plan = plan_shards([clip_builder.source(corpus, name)], corpus, "build")[0]
    receipt = write_shard(folder, plan, clips(plan, corpus))
    assert set(receipt.members) == {name}


def test_no_tar_where_every_clip_was_dropped(folder: Path, corpus: Path) -> None:
    source = clip_builder.source(corpus, "a", "drop no_face")
    plan = plan_shards([source], corpus, "build")[0]
    receipt = write_shard(folder, plan, clips(plan, corpus))
    assert (receipt.sha256, receipt.bytes, receipt.members) == (None, 0, {})
    assert [path.name for path in folder.iterdir()] == ["receipts"]
    assert load_finished(folder, plan) == receipt


@pytest.mark.parametrize("damage", [lambda made: made[:2], lambda made: made[::-1]])
def test_clips_that_are_not_the_planned_ones_publish_nothing(
    folder: Path, plan: ShardPlan, corpus: Path, damage: Callable[[list[ClipResult]], Iterable[ClipResult]]
) -> None:
    with pytest.raises(AssertionError):
        write_shard(folder, plan, damage(clips(plan, corpus)))
    assert not [path for path in folder.rglob("*") if path.is_file()]


# --- finished or not -------------------------------------------------------------------------------------------


def test_finished_as_long_as_nothing_changed(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    assert load_finished(folder, plan) is None
    receipt = write_shard(folder, plan, clips(plan, corpus))
    assert load_finished(folder, plan) == receipt
    for path in [*corpus.iterdir(), *folder.rglob("*")]:
        os.utime(path, (1, 1))
    assert load_finished(folder, plan) == receipt


def rewrite(path: Path) -> None:
    """Another last byte; size and time stay."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "tar is gone": lambda folder, _: (folder / "S1-000.tar").unlink(),
    "tar is cut at a member": lambda folder, _: os.truncate(folder / "S1-000.tar", 10240),
    "tar has another byte": lambda folder, _: rewrite(folder / "S1-000.tar"),
    "receipt is gone": lambda folder, _: (folder / "receipts" / "S1-000.json").unlink(),
    "receipt is empty": lambda folder, _: os.truncate(folder / "receipts" / "S1-000.json", 0),
    "receipt is cut": lambda folder, _: os.truncate(folder / "receipts" / "S1-000.json", 500),
    "receipt is of no shard": lambda folder, _: (folder / "receipts" / "S1-000.json").write_text("{}"),
    "recording has another byte": lambda _, corpus: rewrite(corpus / "a.mp4"),
    "dropped recording has another byte": lambda _, corpus: rewrite(corpus / "b.mp4"),
    "sound of a dropped clip has another byte": lambda _, corpus: rewrite(corpus / "b.wav"),
    "recording is gone": lambda _, corpus: (corpus / "a.mp4").unlink(),
    "recording is a folder": lambda _, corpus: ((corpus / "a.mp4").unlink(), (corpus / "a.mp4").mkdir()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_built_again_when(change: str, folder: Path, plan: ShardPlan, corpus: Path) -> None:
    write_shard(folder, plan, clips(plan, corpus))
    assert load_finished(folder, plan) is not None
    CHANGES[change](folder, corpus)
    assert load_finished(folder, plan) is None


def test_built_again_when_the_plan_is_another(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    write_shard(folder, plan, clips(plan, corpus))
    assert load_finished(folder, replace(plan, digest="another")) is None


def test_sound_that_was_not_used_does_not_matter(folder: Path, plan: ShardPlan, corpus: Path) -> None:
    receipt = write_shard(folder, plan, clips(plan, corpus))
    rewrite(corpus / "c.wav")
    assert load_finished(folder, plan) == receipt


def test_a_recording_that_can_be_hashed_no_more_is_a_change_not_a_crash(
    folder: Path, plan: ShardPlan, corpus: Path
) -> None:
    write_shard(folder, plan, clips(plan, corpus))
    (corpus / "a.mp4").unlink()
    (corpus / "a.mp4").symlink_to("/proc/self/mem")  # a file that opens, but gives an error when read
    assert load_finished(folder, plan) is None


def test_an_unreadable_recording_stays_finished(folder: Path, corpus: Path) -> None:
    (corpus / "a.mp4").symlink_to("/proc/self/mem")
    source = replace(planned("a"), video=corpus / "a.mp4")
    plan = plan_shards([source], corpus, "build")[0]
    receipt = write_shard(folder, plan, [drop_clip(recorded_row(source, corpus), "unreadable", "Input/output error")])
    assert receipt.rows[0].sha256 is None
    assert load_finished(folder, plan) == receipt

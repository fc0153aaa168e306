"""Sequences in batches: the frames and sound of each window, those of pairs for whole clips, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests import index, sequence
from manifests.folds import Side
from manifests.kinds import SEQUENCES
from manifests.labels import identity_scheme
from manifests.schema import dump_json
from manifests.timeline import nearest_frames, spread_instants
from tests.factories.both_kinds import FRAMES, both_folders, folder_of
from tests.factories.builder_shards import shard_folder
from train.data import DataError, readers
from train.data.batches import Batch, SequenceBatch
from train.data.clip_table import ClipTable, load_clips, members_for
from train.data.kinds import READERS
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import fold_sides, open_folder
from train.data.windows import WHOLE_CLIPS, EvenWindows, Placement, RandomWindows, Windows, place_window
from train.fusion import STRATEGIES

RANDOM = RandomWindows(share=(0.3, 0.7), seed=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pairs and sequences of the same eight clips."""
    return both_folders(tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def sequences(folders: tuple[Path, Path]) -> Path:
    return folders[1]


def clips_of(path: Path, strategy: str = "cfas") -> ClipTable:
    """The training side of a fold: six clips, or four with a validation speaker."""
    folder = open_folder(path)
    side = fold_sides(folder, "anna")["train"]
    return load_clips(
        folder, side, identity_scheme("folder", side.clips), members_for(folder.index, STRATEGIES[strategy], "mfcc")
    )


def loader_of(
    clips: ClipTable, windows: Windows = WHOLE_CLIPS, workers: int = 0, face_px: int = 224, **changes: Any
) -> Loader:
    sampler = ClipSampler(**{"clips": len(clips), "batch_size": 3, **changes})
    return Loader(clips, sampler, windows=windows, workers=workers, face_px=face_px)


def same(one: Batch, other: Batch, window: int = 0) -> bool:
    """Bit for bit, whatever is in the batches."""
    faces = [batch.faces(16, window) for batch in (one, other)]
    rows = [batch.rows("mfcc", window) for batch in (one, other)]
    return one.keys == other.keys and torch.equal(*faces) and torch.equal(*rows)


@pytest.mark.parametrize(("strategy", "faces"), [("cfas", 16), ("rfas", 8)])
def test_whole_clips_of_sequences_are_pairs(folders: tuple[Path, Path], strategy: str, faces: int) -> None:
    """Faces but for colours in their outermost columns, spectrograms but for their rounding to halves."""
    pairs, sequences = (next(iter(loader_of(clips_of(path, strategy)).epoch(0))) for path in folders)
    assert pairs.keys == sequences.keys
    stored, read = pairs.faces(faces).int(), sequences.faces(faces).int()
    assert stored.shape == read.shape == (3, faces, 3, 224, 224)
    assert torch.equal(stored[..., 1:-1], read[..., 1:-1])
    assert 0 < (stored - read).abs().max() <= 9
    rows = pairs.rows("mfcc")
    assert rows.shape == (3, faces, 13, 224)
    torch.testing.assert_close(sequences.rows("mfcc"), rows, rtol=2**-10, atol=0.02)


@pytest.mark.parametrize("side", [112, 56, 28])
def test_faces_of_small_encoders_are_reduced_as_filmstrips_are(folders: tuple[Path, Path], side: int) -> None:
    pairs, sequences = (
        next(iter(loader_of(clips_of(path), face_px=side).epoch(0))).faces(16).int() for path in folders
    )
    assert pairs.shape == sequences.shape == (3, 16, 3, side, side)
    assert (pairs - sequences).abs().max() <= 9
    assert torch.equal(pairs[..., 1:-1], sequences[..., 1:-1])


@pytest.mark.parametrize(
    ("stored", "needed", "found"), [(160, 224, 160), (160, 56, 60), (112, 56, 56), (96, 56, 60), (96, 28, 36)]
)
def test_smaller_crops_are_decoded_to_the_next_side_that_is_not_smaller(
    tmp_path: Path, stored: int, needed: int, found: int
) -> None:
    folder = folder_of(tmp_path / "shards", SEQUENCES, side_px=stored)
    batch = next(iter(loader_of(clips_of(folder), face_px=needed).epoch(0)))
    assert batch.faces(16).shape == (3, 16, 3, found, found)


def test_a_batch_holds_the_frames_and_the_sound_of_its_windows(sequences: Path) -> None:
    clips = clips_of(sequences)
    batch = next(iter(loader_of(clips, replace(RANDOM, count=2), shuffle=False).epoch(5)))
    assert isinstance(batch, SequenceBatch)
    placements = replace(RANDOM, count=2).placements(batch.keys, 5)
    assert batch.frames.shape == (3, 2, 16, 224, 224, 3)
    for row, key in enumerate(batch.keys):
        tar = sequences / clips.shards[clips.shard[row]]
        data = tar.read_bytes()
        members = {name: data[o : o + s] for name, (o, s) in index.member_byte_ranges(tar)[key].items()}
        made = sequence.decode(members)
        for place in range(2):
            window = place_window(made.timing.span_seconds, 0.0, Placement(*placements[row, place]))
            shown = nearest_frames(np.array(made.timing.frame_seconds), window.timeline.instants_seconds)
            expected = np.stack([sequence.decode_frame(made.jpegs[i], 224) for i in shown])
            assert np.array_equal(batch.frames[row, place].numpy(), expected)
            assert np.array_equal(batch.sounds.window_starts[row, place], window.timeline.window_starts(16))
            assert batch.sounds.hops[row, place] == window.timeline.hop_seconds(16)
        assert np.array_equal(batch.sounds.samples[row], made.audio)


@pytest.mark.parametrize("windows", [WHOLE_CLIPS, RANDOM, EvenWindows(longest_seconds=0.5, count=3)])
def test_only_frames_that_are_used_are_read_and_decoded_each_once(
    sequences: Path, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, read = [], []
    real, real_read = sequence.decode_checked_frame, readers._ShardFiles.read
    monkeypatch.setattr(
        readers, "decode_checked_frame", lambda *given, **named: decoded.append(1) or real(*given, **named)
    )
    monkeypatch.setattr(
        readers._ShardFiles, "read", lambda self, *given: read.append(given[2]) or real_read(self, *given)
    )
    clips = clips_of(sequences)
    batch = next(iter(loader_of(clips, windows, batch_size=1, shuffle=False).epoch(1)))
    (placements,) = windows.placements(batch.keys, 1)
    span = (0.05, 0.05 + 0.04 * FRAMES)
    shown = set()
    for placement in placements:
        instants = place_window(span, windows.longest_seconds, Placement(*placement)).timeline.instants_seconds
        shown |= {*nearest_frames(0.05 + 0.04 * np.arange(FRAMES), instants).tolist()}
    assert len(decoded) == len(shown) < FRAMES
    assert len(read) == len(shown) + 2  # the json and the sound
    assert sum(read) < clips.byte_ranges[0, :, 1].sum() - 10 * (FRAMES - len(shown))


def test_a_modality_that_is_not_needed_is_neither_read_nor_decoded(
    sequences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    assert clips_of(sequences, "faces").members.suffixes == ("frames.mjpg", "json")
    assert clips_of(sequences, "spectrograms").members.suffixes == ("audio.flac", "json")
    with monkeypatch.context() as patch:
        patch.setattr(readers, "decode_checked_frame", fail)
        heard = next(iter(loader_of(clips_of(sequences, "spectrograms")).epoch(0)))
        assert heard.faces(0).shape == (3, 0, 3, 224, 224)
        assert heard.rows("mfcc").shape == (3, 16, 13, 224)
    monkeypatch.setattr(readers, "decode_audio", fail)
    seen = next(iter(loader_of(clips_of(sequences, "faces")).epoch(0)))
    assert seen.faces(16).shape == (3, 16, 3, 224, 224)
    assert seen.rows("mfcc").shape == (3, 0, 0, 224)


def test_batches_are_equal_for_any_number_of_workers_and_change_with_the_epoch(sequences: Path) -> None:
    clips = clips_of(sequences)
    alone = list(loader_of(clips, RANDOM).epoch(1))
    for workers in (1, 3):
        assert all(same(*pair) for pair in zip(alone, loader_of(clips, RANDOM, workers).epoch(1), strict=True))
    ordered = loader_of(clips, RANDOM, shuffle=False)
    first, second, again = (next(iter(ordered.epoch(epoch))) for epoch in (1, 2, 1))
    assert same(first, again)
    assert not torch.equal(first.faces(16), second.faces(16))
    assert not torch.equal(first.rows("mfcc"), second.rows("mfcc"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_stopped(sequences: Path, workers: int) -> None:
    loader = loader_of(clips_of(sequences), RANDOM, workers, batch_size=2)
    whole, resumed = list(loader.epoch(4)), list(loader.epoch(4, first_step=1))
    assert len(resumed) == len(whole) - 1
    assert all(same(*pair) for pair in zip(whole[1:], resumed, strict=True))


def test_two_ranks_see_what_one_process_sees(sequences: Path) -> None:
    clips = clips_of(sequences)
    alone = loader_of(clips, RANDOM, batch_size=4).epoch(2)
    ranks = [loader_of(clips, RANDOM, batch_size=2, rank=rank, world_size=2).epoch(2) for rank in (0, 1)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.faces(16), torch.cat([part.faces(16) for part in parts]))
        assert torch.equal(whole.rows("mfcc"), torch.cat([part.rows("mfcc") for part in parts]))
        for micro, part in zip(whole.split(2), parts, strict=True):
            assert same(micro, part)


def test_a_clip_that_comes_again_has_another_window(sequences: Path) -> None:
    clips = clips_of(sequences)
    labels = np.array([0] + [1] * (len(clips) - 1))
    batches = list(loader_of(clips, RANDOM, balanced_labels=labels).epoch(1))
    first = clips.keys[0].decode()
    seen = [batch.sounds.window_starts[row] for batch in batches for row, key in enumerate(batch.keys) if key == first]
    assert len(seen) == len(clips) // 2 > 1
    assert not np.array_equal(seen[0], seen[1])


def test_a_batch_of_sequences_moves_and_is_sliced_with_all_it_has(sequences: Path) -> None:
    batch = next(iter(loader_of(clips_of(sequences)).epoch(0)))
    assert same(batch.to("cpu"), batch)
    assert batch.to("meta").frames.device.type == "meta"
    assert batch[1:2].keys == batch.keys[1:2]
    assert torch.equal(batch[1:].rows("mfcc"), batch.rows("mfcc")[1:])
    assert torch.equal(batch[1:].faces(16), batch.faces(16)[1:])


def test_a_rank_without_clips_in_the_last_step_gets_an_empty_batch(sequences: Path) -> None:
    clips = clips_of(sequences)
    (batch,) = loader_of(clips, batch_size=1, rank=len(clips), world_size=len(clips) + 1).epoch(0)
    assert batch.faces(16).shape == (0, 16, 3, 224, 224)
    assert batch.rows("mfcc").shape == (0, 16, 13, 224)


def test_spectrograms_of_whole_clips_are_those_of_the_statistics(folders: tuple[Path, Path]) -> None:
    """A side that shares a shard with others sums them up itself."""
    found = []
    for kind, path in zip(("pairs", "sequences"), folders, strict=True):
        tar = path / "ben-000.tar"
        data, members = tar.read_bytes(), index.member_byte_ranges(tar)["ben-joy"]

        def read(suffix: str, data: bytes = data, members: Any = members) -> bytes:
            offset, size = members[suffix]
            return data[offset : offset + size]

        windows, present = READERS[kind].clip_windows(read, "mfcc_8")
        assert (windows.dtype, present) == (np.float16, {})
        found.append(windows.astype(np.float32))
    np.testing.assert_allclose(*found, rtol=2**-9, atol=0.03)


def test_a_side_of_some_clips_of_a_shard_has_their_statistics(folders: tuple[Path, Path]) -> None:
    """A receipt has those of all clips of the shard."""
    sums = {}
    for path in folders:
        folder = open_folder(path)
        for listed in (("ben-joy",), ("ben-fear",), ("ben-fear", "ben-joy")):
            emotions = {clip.partition("-")[2]: 1 for clip in listed}
            side = Side(shards=("ben-000.tar",), subjects=("ben",), clips=emotions, clip_ids=listed)
            members = members_for(folder.index, STRATEGIES["cfas"], "mfcc")
            sums[path, listed] = load_clips(folder, side, identity_scheme("folder", emotions), members).statistics
    pairs, sequences = folders
    for listed in (("ben-joy",), ("ben-fear",)):
        assert sums[pairs, listed].count == sums[sequences, listed].count
        np.testing.assert_allclose(sums[sequences, listed].total, sums[pairs, listed].total, rtol=1e-3, atol=20)
    both = np.add(sums[sequences, ("ben-joy",)].total, sums[sequences, ("ben-fear",)].total)
    np.testing.assert_allclose(both, sums[sequences, ("ben-fear", "ben-joy")].total, rtol=1e-3, atol=20)
    assert not np.allclose(sums[sequences, ("ben-joy",)].total, sums[sequences, ("ben-fear",)].total, rtol=1e-2)


def _frames(_: dict[str, Any], members: dict[str, bytes]) -> None:
    members["frames.mjpg"] = bytes(len(members["frames.mjpg"]))


def _sound(_: dict[str, Any], members: dict[str, bytes]) -> None:
    members["audio.flac"] = bytes(len(members["audio.flac"]))


def _side(_: dict[str, Any], members: dict[str, bytes]) -> None:
    small = sequence.encode_frame(np.zeros((112, 112, 3), np.uint8))
    frames = members["frames.mjpg"]
    members["frames.mjpg"] = (small * (len(frames) // len(small) + 1))[: len(frames)]


def _not_json(_: dict[str, Any], members: dict[str, bytes]) -> None:
    members["json"] = b"{" * len(members["json"])


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, bytes]], object], str]] = {
    "frames": (_frames, r"frames\.mjpg: not a JPEG"),
    "sound": (_sound, r"audio\.flac: not FLAC"),
    "side": (_side, r"frames\.mjpg: found 112x112, expected 224x224|not a JPEG"),
    "json": (_not_json, r"json: cannot be parsed"),
    "far ranges": (lambda meta, _: meta["byte_ranges"][3].__setitem__(0, 1 << 40), "json.byte_ranges: found"),
    "negative": (lambda meta, _: meta["byte_ranges"][0].__setitem__(0, -7), "json.byte_ranges: found"),
    "few ranges": (lambda meta, _: meta["byte_ranges"].pop(), "json.byte_ranges: found"),
    "order": (lambda meta, _: meta["timing"]["frame_seconds"].reverse(), "expected ascending times within it"),
    "text": (lambda meta, _: meta["timing"]["frame_seconds"].__setitem__(0, "0"), "frame_seconds: found"),
    "absurd": (lambda meta, _: meta["timing"].update(audio_start_seconds=1e300), "audio_start_seconds: found"),
    "no span": (lambda meta, _: meta["timing"].pop("span_seconds"), "json: missing span_seconds"),
    "no timing": (lambda meta, _: meta.update(timing=[]), "json.timing: found a list"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_sample_names_its_shard_and_clip(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, workers: int
) -> None:
    change, message = HOSTILE[name]
    clips = clips_of(sequences)
    key, path = clips.keys[2].decode(), sequences / clips.shards[clips.shard[2]]
    data = path.read_bytes()
    places = dict(zip(clips.members.suffixes, clips.byte_ranges[2].tolist(), strict=True))
    members = {suffix: data[offset : offset + size] for suffix, (offset, size) in places.items()}
    meta = sequence.load_metadata(members["json"])
    change(meta, members)
    if members["json"] == data[places["json"][0] :][: places["json"][1]]:
        members["json"] = dump_json(meta).encode()
    real = readers.Reader.read

    def read(self: Any, clip: int, suffix: str, place: tuple[int, int] | None = None) -> bytes:
        if clip != 2:
            return real(self, clip, suffix, place)
        offset, size = place or places[suffix]
        if place is None:
            return members[suffix]
        start = offset - places[suffix][0]
        return members[suffix][start : start + size]

    monkeypatch.setattr(readers.Reader, "read", read)
    expected = rf"^\S*{path.name}: damaged at clip {key}: .*({message})"
    with pytest.raises(DataError, match=expected):
        list(loader_of(clips, workers=workers, shuffle=False).epoch(0))


def test_a_tar_that_ends_early_is_named(sequences: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sequences, tmp_path / "shards")
    clips = clips_of(copy)
    tar = copy / clips.shards[clips.shard[0]]
    offset, size = clips.byte_ranges[0, 0].tolist()
    tar.write_bytes(tar.read_bytes()[: offset + size // 2])
    with pytest.raises(DataError, match=rf"{tar.name}: damaged at clip .*: found \d+ bytes, expected \d+; build"):
        list(loader_of(clips, shuffle=False).epoch(0))


def test_crops_of_no_valid_side_are_refused(sequences: Path) -> None:
    folder = open_folder(sequences)
    config = {**folder.index.identity["config"], "size_px": 4000}
    changed = replace(folder.index, identity={"config": config})
    with pytest.raises(DataError, match="found crops of side 4000, expected one of"):
        members_for(changed, STRATEGIES["cfas"], "mfcc")


def test_a_clip_of_fewer_frames_than_instants_shows_each_several_times(tmp_path: Path) -> None:
    folder = shard_folder(tmp_path / "shards", kind=SEQUENCES, speakers=("anna", "ben", "cleo"))
    batch = next(iter(loader_of(clips_of(folder), batch_size=1, shuffle=False).epoch(0)))
    faces = batch.faces(16)[0]
    shown = nearest_frames(0.05 + 0.04 * np.arange(5), spread_instants((0.05, 0.25)).instants_seconds)
    assert len({face.numpy().tobytes() for face in faces}) == 5
    for i, j in zip(range(15), range(1, 16), strict=True):
        assert torch.equal(faces[i], faces[j]) == (shown[i] == shown[j])


def test_times_of_frames_are_kept_up_to_a_limit(sequences: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed, checked, real, real_check = [], [], sequence.read_frame_index, sequence.check_frame
    monkeypatch.setattr(readers, "read_frame_index", lambda *given: parsed.append(1) or real(*given))
    monkeypatch.setattr(readers, "check_frame", lambda *given: checked.append(1) or real_check(*given))
    clips = clips_of(sequences)
    loader = loader_of(clips)
    before = list(loader.epoch(0))
    assert all(same(*pair) for pair in zip(before, loader.epoch(0), strict=True))
    assert (len(parsed), len(checked)) == (len(clips), 16 * len(clips))
    parsed.clear()
    checked.clear()
    monkeypatch.setattr(readers, "KEPT_INDEX_BYTES", 0)
    limited = loader_of(clips)
    for _ in range(2):
        list(limited.epoch(0))
    assert (len(parsed), len(checked)) == (2 * len(clips), 2 * 16 * len(clips))

"""Batches: each clip once whatever reads it, the same for the same seed, and never a damaged one."""

from __future__ import annotations

import shutil
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from manifests.labels import identity_scheme
from manifests.schema import decode
from tests.factories.shards import make_folder
from train.data import DataError
from train.data import readers as reading
from train.data.batches import PairBatch
from train.data.clip_table import ClipTable, load_clips, members_for
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import fold_sides, open_folder
from train.fusion import STRATEGIES


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips of five speakers; a fold trains on three or four of them."""
    return make_folder(tmp_path_factory.mktemp("loader") / "shards", speakers=("a", "b", "c", "d", "e"))


def clips_of(path: Path, strategy: str = "cfas") -> ClipTable:
    folder = open_folder(path)
    side = fold_sides(folder, "a")["train"]
    members = members_for(folder.index, STRATEGIES[strategy], "mfcc")
    return load_clips(folder, side, identity_scheme("folder", side.clips), members)


def loader_of(clips: ClipTable, batch_size: int = 5, workers: int = 0, **changes: int) -> Loader:
    return Loader(clips, ClipSampler(clips=len(clips), batch_size=batch_size, **changes), workers=workers)


def same(one: PairBatch, other: PairBatch) -> bool:
    """Bit for bit."""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(PairBatch)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@given(
    clips=st.integers(1, 200),
    batch_size=st.integers(1, 17),
    ranks=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
def test_all_ranks_together_see_each_clip_once_and_take_equal_steps(
    clips: int, batch_size: int, ranks: int, seed: int, epoch: int
) -> None:
    shared = [
        ClipSampler(clips=clips, batch_size=batch_size, seed=seed, rank=rank, world_size=ranks) for rank in range(ranks)
    ]
    alone = ClipSampler(clips=clips, batch_size=batch_size * ranks, seed=seed)
    order = alone.order(epoch)
    assert {len(sampler) for sampler in shared} == {len(alone)}
    for step in range(len(alone)):
        pieces = [sampler.order(epoch)[sampler.rank_slice(step)] for sampler in shared]
        assert np.concatenate(pieces).tolist() == order[alone.rank_slice(step)].tolist()
        assert max(map(len, pieces)) <= batch_size
        assert sum(map(len, pieces)) == alone.step_size(step)
        if batch_size % 2 == 0:
            assert all(sampler.rank_slice(step).start % 2 == 0 for sampler in shared if len(pieces[sampler.rank]))
    assert sum(alone.step_size(step) for step in range(len(alone))) == clips
    assert sorted(order.tolist()) == list(range(clips))


def test_only_the_last_step_may_be_incomplete() -> None:
    sampler = ClipSampler(clips=103, batch_size=8, world_size=2)
    assert [sampler.step_size(step) for step in range(len(sampler))] == [16] * 6 + [7]
    sizes = [sampler.rank_slice(6), ClipSampler(clips=103, batch_size=8, world_size=2, rank=1).rank_slice(6)]
    assert [piece.stop - piece.start for piece in sizes] == [4, 3]
    empty = ClipSampler(clips=1, batch_size=8, world_size=2, rank=1).rank_slice(0)
    assert empty.start == empty.stop


def test_the_order_is_a_true_shuffle_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return ClipSampler(clips=50, batch_size=8, seed=seed).order(epoch).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) != order(2, 3)
    assert ClipSampler(clips=50, batch_size=8, shuffle=False).order(3).tolist() == list(range(50))
    firsts = {order(0, epoch)[0] for epoch in range(400)}
    assert len(firsts) > 45  # nearly every clip comes first some time


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=90),
    batch_size=st.integers(1, 17),
    ranks=st.integers(1, 5),
    epoch=st.integers(0, 1000),
)
def test_balanced_classes_come_equally_often_whatever_the_number_of_ranks(
    labels: list[int], batch_size: int, ranks: int, epoch: int
) -> None:
    known = np.array(labels)
    options = {"clips": len(labels), "seed": 3, "balanced_labels": known}
    alone = ClipSampler(batch_size=batch_size * ranks, **options)
    order = alone.order(epoch)
    assert len(order) == len(labels)
    per_class = np.bincount(known[order])[np.unique(known)]
    assert per_class.max() - per_class.min() <= 1
    for label in np.unique(known):
        times = np.bincount(order, minlength=len(labels))[known == label]
        assert times.max() - times.min() <= 1
    shared = [ClipSampler(batch_size=batch_size, rank=rank, world_size=ranks, **options) for rank in range(ranks)]
    for step, (clips, repeats) in enumerate(zip(alone.batches(epoch), alone.repeats(epoch), strict=True)):
        assert np.concatenate([each.batches(epoch)[step] for each in shared]).tolist() == clips.tolist()
        assert sum((each.repeats(epoch)[step] for each in shared), ()) == repeats
    seen: list[int] = []
    for clip, number in zip(order.tolist(), sum(alone.repeats(epoch), ()), strict=True):
        assert seen.count(clip) == number
        seen.append(clip)


def test_balanced_order_depends_on_the_epoch_and_leaves_other_clips_of_a_large_class_out() -> None:
    labels = np.array([0] * 40 + [1] * 4)
    sampler = ClipSampler(clips=44, batch_size=8, balanced_labels=labels)
    orders = [sampler.order(epoch).tolist() for epoch in range(1, 9)]
    assert len(set(map(tuple, orders))) == 8
    assert sampler.order(3).tolist() == orders[2]
    assert {clip for order in orders for clip in order} == set(range(44))
    assert [len({*order}) for order in orders] == [22 + 4] * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_that_comes_again_has_other_random_numbers_each_time(shards: Path, workers: int) -> None:
    clips = clips_of(shards)
    labels = np.array([0] + [1] * (len(clips) - 1))
    sampler = ClipSampler(clips=len(clips), batch_size=5, balanced_labels=labels)
    batches = list(Loader(clips, sampler, workers=workers).epoch(1))
    keys = [key for batch in batches for key in batch.keys]
    drawn = [key for batch in batches for key in batch.draw_keys]
    first = clips.keys[0].decode()
    assert keys.count(first) == len(clips) // 2
    assert len(set(drawn)) == len(clips)
    assert {first, f"{first} 1", f"{first} 5"} <= {*drawn}
    assert batches[0].split(2)[1].draw_keys == batches[0].draw_keys[2:4]
    plain = next(iter(loader_of(clips).epoch(1)))
    assert plain.draw_keys == plain.keys
    resumed = Loader(clips, sampler, workers=workers).epoch(1, first_step=1)
    assert all(same(*pair) for pair in zip(batches[1:], resumed, strict=True))


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"clips": 0}, {"rank": 2, "world_size": 2}, {"seed": -1}])
def test_samplers_out_of_range_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected clips and batch size from 1"):
        ClipSampler(**({"clips": 10, "batch_size": 2} | changes))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_are_equal_for_any_number_of_workers(shards: Path, strategy: str) -> None:
    clips = clips_of(shards, strategy)
    batches = [list(loader_of(clips, workers=workers, seed=3).epoch(1)) for workers in (0, 1, 2, 3)]
    for others in batches[1:]:
        assert all(same(one, other) for one, other in zip(batches[0], others, strict=True))
    keys = [key for batch in batches[0] for key in batch.keys]
    assert sorted(keys) == sorted(key.decode() for key in clips.keys)


def test_a_batch_holds_what_the_contract_decodes(shards: Path) -> None:
    clips = clips_of(shards, "ffls")
    batch = next(iter(loader_of(clips).epoch(0)))
    assert (batch.filmstrips.dtype, batch.filmstrips.shape) == (torch.uint8, (5, 224, 3584, 3))
    assert (batch.spectrograms.dtype, batch.spectrograms.shape) == (torch.float16, (5, 8, 13, 224))
    assert batch.labels.dtype == torch.int64
    for row, (key, speaker) in enumerate(zip(batch.keys, batch.speakers, strict=True)):
        assert key.startswith(f"{speaker}-")
        sample = decode(_members(shards / f"{speaker}-000.tar", key))
        strip = sample.faces.transpose(1, 0, 2, 3).reshape(224, 3584, 3)
        assert np.array_equal(batch.filmstrips[row].numpy(), strip)
        assert np.array_equal(batch.spectrograms[row].numpy(), sample.spectrograms["mfcc_8"])
        assert batch.labels[row] == ("fear", "joy").index(sample.clip.emotion)


def test_a_modality_that_is_not_needed_is_neither_read_nor_shipped(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr(reading, "decode_filmstrip", fail)
        batch = next(iter(loader_of(clips_of(shards, "spectrograms")).epoch(0)))
        assert (batch.filmstrips.shape, batch.spectrograms.shape) == ((5, 224, 0, 3), (5, 16, 13, 224))
    monkeypatch.setattr(reading, "decode_spectrogram", fail)
    batch = next(iter(loader_of(clips_of(shards, "faces")).epoch(0)))
    assert (batch.filmstrips.shape, batch.spectrograms.shape) == ((5, 224, 3584, 3), (5, 0, 0, 224))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begins_at_any_step_and_decodes_nothing_before_it(
    shards: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = clips_of(shards)
    loader = loader_of(clips, batch_size=2, workers=workers)
    whole = list(loader.epoch(4))
    decoded, real = [], reading.decode_filmstrip
    monkeypatch.setattr(reading, "decode_filmstrip", lambda *given: decoded.append(1) or real(*given))
    resumed = list(loader.epoch(4, first_step=3))
    assert len(decoded) == len(clips) - 3 * 2
    assert len(resumed) == len(loader.sampler) - 3
    assert all(same(one, other) for one, other in zip(whole[3:], resumed, strict=True))
    assert list(loader.epoch(4, first_step=len(loader.sampler))) == []


def test_two_ranks_make_the_steps_of_one_process(shards: Path) -> None:
    clips = clips_of(shards)
    alone = loader_of(clips, batch_size=8).epoch(2)
    ranks = [loader_of(clips, batch_size=4, rank=rank, world_size=2).epoch(2) for rank in (0, 1)]
    for whole, *pieces in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.filmstrips, torch.cat([piece.filmstrips for piece in pieces]))
        assert whole.keys == sum((piece.keys for piece in pieces), ())


def test_a_rank_without_clips_in_the_last_step_gets_an_empty_batch(shards: Path) -> None:
    clips = clips_of(shards)
    assert len(clips) == 12
    last = list(loader_of(clips, batch_size=2, rank=4, world_size=5).epoch(0))[-1]
    assert len(last) == 0
    assert last.filmstrips.shape == (0, 224, 3584, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_member_names_its_shard_and_clip(shards: Path, tmp_path: Path, workers: int) -> None:
    copy = shutil.copytree(shards, tmp_path / "shards")
    clips = clips_of(copy)
    tar = copy / clips.shards[clips.shard[5]]
    whole, (offset, size) = tar.read_bytes(), clips.byte_ranges[5, 0].tolist()
    key = clips.keys[5].decode()
    tar.write_bytes(whole[: offset + 10])
    with pytest.raises(DataError, match=rf"^\S*{tar.name}: damaged at clip .*: found \d+ bytes, expected \d+; build"):
        list(loader_of(clips, workers=workers, shuffle=False).epoch(0))
    tar.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    with pytest.raises(DataError, match=rf"{tar.name}: damaged at clip {key}: faces\.jpg: not a JPEG"):
        list(loader_of(clips, workers=workers, shuffle=False).epoch(0))
    offset, size = clips.byte_ranges[5, 1].tolist()
    tar.write_bytes(whole[: offset + size - 2] + b"\x00\x7c" + whole[offset + size :])  # infinity
    with pytest.raises(DataError, match=rf"{tar.name}: damaged at clip {key}: mfcc_16\.npy: found non-finite values"):
        list(loader_of(clips, workers=workers, shuffle=False).epoch(0))
    tar.unlink()
    with pytest.raises(DataError, match=rf"{tar.name}: damaged at clip .*No such file"):
        list(loader_of(clips, workers=workers, shuffle=False).epoch(0))


def test_batches_that_are_kept_stay_as_they_are_and_memory_of_others_is_used_again(shards: Path) -> None:
    loader = loader_of(clips_of(shards), batch_size=2)
    kept = list(loader.epoch(0))
    copies = [batch.filmstrips.clone() for batch in kept]
    list(loader.epoch(1))
    assert all(torch.equal(batch.filmstrips, copy) for batch, copy in zip(kept, copies, strict=True))
    assert len({batch.filmstrips.data_ptr() for batch in kept}) == len(kept)
    faces = kept[0].filmstrips[1, :, 224:448]  # a view holds on to its batch
    before = faces.clone()
    del kept
    places = {batch.filmstrips.data_ptr() for batch in loader.epoch(2)}
    assert len(places) < len(loader.sampler)
    assert torch.equal(faces, before)


def test_an_epoch_left_early_leaves_no_thread_behind(shards: Path) -> None:
    before = threading.active_count()
    batches = loader_of(clips_of(shards), batch_size=1, workers=2).epoch(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_more_shards_than_may_be_open_are_read_as_well(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = clips_of(shards)
    expected = list(loader_of(clips).epoch(0))
    monkeypatch.setattr(reading, "MAX_OPEN_SHARDS", 1)
    assert all(same(*pair) for pair in zip(expected, loader_of(clips, workers=2).epoch(0), strict=True))


def test_reading_draws_no_random_number_of_the_training(shards: Path) -> None:
    state = torch.get_rng_state()
    list(loader_of(clips_of(shards), workers=2).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sampler_of_other_clips_is_refused(shards: Path) -> None:
    with pytest.raises(DataError, match="found a sampler of 3 clips, 0 workers; expected 12, 0 or more"):
        Loader(clips_of(shards), ClipSampler(clips=3, batch_size=1), workers=0)


def test_a_batch_moves_with_all_it_has(shards: Path) -> None:
    batch = next(iter(loader_of(clips_of(shards)).epoch(0)))
    assert same(batch.to("cpu"), batch)
    assert batch.to("meta").filmstrips.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_pinned_when_asked(shards: Path) -> None:
    clips = clips_of(shards)
    pinned = list(Loader(clips, ClipSampler(clips=len(clips), batch_size=5), workers=2, pin=True).epoch(0))
    plain = list(loader_of(clips).epoch(0))
    assert all(batch.filmstrips.is_pinned() and batch.spectrograms.is_pinned() for batch in pinned)
    assert all(same(*pair) for pair in zip(pinned, plain, strict=True))
    assert all(same(one.to("cuda").to("cpu"), other) for one, other in zip(pinned, plain, strict=True))


def _members(tar: Path, key: str) -> dict[str, bytes]:
    from manifests.index import member_byte_ranges

    data = tar.read_bytes()
    return {suffix: data[o : o + s] for suffix, (o, s) in member_byte_ranges(tar)[key].items()}

"""Shards at an address: trained on while they arrive, each hashed before anything of it is decoded."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from manifests import download
from manifests.fetch import FetchError
from manifests.labels import identity_scheme
from manifests.stores import StoreError
from tests.factories.shards import SPEAKERS, make_folder, sign
from tests.fakes.servers import Fault, FileServer
from tests.fakes.stores import KINDS, published
from train.data.batches import PairBatch
from train.data.clip_table import ClipTable, load_clips, members_for
from train.data.loader import Loader
from train.data.prefetch import ShardPrefetcher
from train.data.sampler import ClipSampler
from train.data.shard_folder import ShardFolder, default_cache, fold_sides, open_folder, prefetch_shards, verified_files
from train.fusion import STRATEGIES

SHARDS = [f"{speaker}-000.tar" for speaker in SPEAKERS]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("remote") / "shards", speakers=(*SPEAKERS, "eve", "finn"))


@pytest.fixture
def server(shards: Path, tmp_path: Path) -> Iterator[FileServer]:
    """Serves a folder of its own, to be changed."""
    with FileServer(shutil.copytree(shards, tmp_path / "there"), prefix="lab/shards") as running:
        yield running


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no rests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))


def clips_of(folder: ShardFolder, side: str = "train") -> ClipTable:
    fold_side = fold_sides(folder, "anna")[side]
    members = members_for(folder.index, STRATEGIES["cfas"], "mfcc")
    return load_clips(folder, fold_side, identity_scheme("folder", fold_side.clips), members)


def loader_of(folder: ShardFolder, workers: int = 2, on_way: ShardPrefetcher | None = None, **changes: int) -> Loader:
    clips = clips_of(folder)
    sampler = ClipSampler(clips=len(clips), **{"batch_size": 4, "shuffle": False, **changes})
    return Loader(clips, sampler, workers=workers, prefetcher=on_way or prefetch_shards(folder, clips.shards))


def same(some: list[PairBatch], others: list[PairBatch]) -> bool:
    return all(
        one.keys == other.keys
        and torch.equal(one.filmstrips, other.filmstrips)
        and torch.equal(one.spectrograms, other.spectrograms)
        for one, other in zip(some, others, strict=True)
    )


def flipped(data: bytes) -> bytes:
    return data[:-600] + bytes([data[-600] ^ 1]) + data[-599:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_folder_reads_like_a_local_one(kind: str, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with published(kind, shards, monkeypatch) as address:
        remote = list(loader_of(open_folder(address), shuffle=True, seed=3).epoch(1))
    assert same(remote, list(loader_of(open_folder(shards), shuffle=True, seed=3).epoch(1)))


def test_only_what_is_used_is_fetched_and_only_once(server: FileServer) -> None:
    list(loader_of(open_folder(server.url)).epoch(0))
    used = fold_sides(open_folder(server.url), "anna")["train"].shards
    requested = [name for name in server.requested if name.endswith((".tar", ".json"))]
    receipts = [f"receipts/{name.removesuffix('.tar')}.json" for name in used]
    assert sorted(requested) == sorted([*used, *receipts, "dataset.json", "folds/loso.json"])
    server.behave()
    list(loader_of(open_folder(server.url)).epoch(0))
    assert server.requested == ["SHA256SUMS"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_before_all_shards_are_here(server: FileServer, shards: Path, workers: int) -> None:
    folder = open_folder(server.url)
    *before, last = fold_sides(folder, "anna")["train"].shards
    late = threading.Event()
    server.misbehave(last, Fault(hold=late))
    batches = loader_of(folder, workers).epoch(0)
    came = [next(batches) for _ in before]
    assert {f"{batch.speakers[0]}-000.tar" for batch in came} == set(before)
    assert not (folder.path / last).exists()
    late.set()
    came += batches
    assert same(came, list(loader_of(open_folder(shards)).epoch(0)))


@pytest.mark.parametrize("first", [0, 2])
def test_shards_are_asked_for_in_the_order_of_need(shards: Path, first: int) -> None:
    folder, begun = open_folder(shards), list[str]()
    clips = clips_of(folder)
    on_way = ShardPrefetcher(clips.shards, lambda name, _: begun.append(name), threads=1)
    loader = loader_of(folder, on_way=on_way, shuffle=True, batch_size=3, seed=5)
    needed = [clips.shards[shard] for shard in clips.shard[loader.sampler.order(7)[3 * first :]]]
    list(loader.epoch(7, first))
    on_way.close()
    order = list(dict.fromkeys(needed))
    assert begun[: len(order)] == order


@pytest.mark.parametrize("workers", [0, 2])
def test_wrong_bytes_are_never_decoded(server: FileServer, workers: int) -> None:
    folder = open_folder(server.url)
    bad = fold_sides(folder, "anna")["train"].shards[1]
    server.misbehave(bad, always=Fault(change=flipped))
    with pytest.raises(
        StoreError,
        match=rf"^{server.url}/{bad}: found SHA-256 [0-9a-f]+, expected [0-9a-f]+; the source file is damaged",
    ):
        list(loader_of(folder, workers).epoch(0))
    assert not (folder.path / bad).exists()
    server.behave()
    list(loader_of(open_folder(server.url), workers).epoch(0))
    assert bad in server.requested


def test_a_cached_file_that_was_damaged_is_fetched_again(server: FileServer, shards: Path) -> None:
    folder = open_folder(server.url)
    list(loader_of(folder).epoch(0))
    for path in (folder.path / "dataset.json", *folder.path.glob("receipts/*.json"), *folder.path.glob("*.tar")):
        path.write_bytes(flipped(path.read_bytes() + bytes(600)))
    verified_files.clear()  # as in another process
    again = list(loader_of(open_folder(server.url)).epoch(0))
    assert same(again, list(loader_of(open_folder(shards)).epoch(0)))


def test_a_speaker_who_was_withdrawn_leaves_the_cache(server: FileServer, tmp_path: Path) -> None:
    folder = open_folder(server.url)
    list(loader_of(folder).epoch(0))
    gone = fold_sides(folder, "anna")["train"].subjects[0]
    assert (folder.path / f"{gone}-000.tar").exists()
    others = [name for name in (*SPEAKERS, "eve", "finn") if name != gone]
    server.folder = make_folder(tmp_path / "since", speakers=others)
    again = open_folder(server.url)
    assert again.path == folder.path
    assert f"{gone}-000.tar" not in again.available
    assert not list(folder.path.rglob(f"{gone}*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "SHA256SUMS").unlink(), r"SHA256SUMS: not found \(HTTP 404\)"),
        (lambda folder: (folder / "SHA256SUMS").write_text("<html>\n"), r"SHA256SUMS:1: found '<html>'"),
        (lambda folder: (folder / "dataset.json").write_text("{}"), r"dataset\.json: found SHA-256"),
    ],
)
def test_an_index_that_cannot_be_had_is_told(server: FileServer, change: Callable[[Path], None], says: str) -> None:
    change(server.folder)
    with pytest.raises(StoreError, match=f"^{server.url}/{says}"):
        open_folder(server.url)


def test_other_addresses_are_refused() -> None:
    with pytest.raises(StoreError, match="expected a folder, http"):
        open_folder("ftp://host/shards")


def test_an_unfinished_build_is_refused(server: FileServer) -> None:
    path = server.folder / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"complete": true', b'"complete": false'))
    sign(server.folder)
    with pytest.raises(FetchError, match="found an unfinished build, expected a finished one"):
        open_folder(server.url)


def test_remote_folders_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/multimae-der")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_cache() == Path("/home/anna/.cache/multimae-der")


def test_a_rank_without_clips_in_the_last_step_waits_for_none(shards: Path) -> None:
    folder = open_folder(shards)
    share = {"batch_size": 3, "rank": 4, "world_size": 5}
    streamed = list(loader_of(folder, **share).epoch(0))
    assert len(streamed[-1]) == 0
    assert same(streamed, list(Loader(clips_of(folder), loader_of(folder, **share).sampler, workers=0).epoch(0)))

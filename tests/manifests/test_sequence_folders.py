"""Folders of sequences: verified, shared, fetched, withdrawn from and read by stock readers like those of pairs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml

from manifests import index, sequence
from manifests.fetch import fetch
from manifests.index import ManifestError
from manifests.kinds import SEQUENCES
from manifests.share import ShareOptions, share
from manifests.stores import open_writable_store
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories.builder_shards import edit_json, resign, shard_folder
from tests.factories.licences import licensed_as

#: Of no other test: mlcroissant caches shards by their names.
SPEAKERS = ("eva", "finn", "gus", "hana")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of sequences that no test changes."""
    folder = shard_folder(tmp_path_factory.mktemp("sequences") / "shards", kind=SEQUENCES, speakers=SPEAKERS)
    return licensed_as(folder, "ravdess")


@pytest.fixture
def folder(frozen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(frozen, tmp_path / "shards"))


def members_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """Clip id -> member suffix -> bytes, as the receipts say."""
    found = {}
    for shard in index.load_dataset(folder).shards:
        data = (folder / shard.name).read_bytes()
        for key, places in index.load_receipt(folder / shard.receipt).members.items():
            found[key] = {suffix: data[offset : offset + size] for suffix, (offset, size) in places.items()}
    return found


def test_a_folder_says_what_it_is_and_is_whole(frozen: Path) -> None:
    dataset = index.load_dataset(frozen)
    assert (dataset.kind, dataset.members) == ("sequences", sequence.MEMBERS)
    assert verify(frozen, full=True) == []
    assert {sequence.check(members).clip_id for members in members_of(frozen).values()} == members_of(frozen).keys()


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    edit_json(folder / "dataset.json", lambda value: value.update(kind="words"))
    with pytest.raises(ManifestError, match=r"found kind 'words', expected one of pairs, sequences, tokens"):
        index.load_dataset(folder)


@pytest.mark.parametrize("kind", ["pairs", "sequences"])
def test_samples_of_another_kind_are_found(folder: Path, whole: Path, tmp_path: Path, kind: str) -> None:
    if kind == "pairs":
        other = folder
        edit_json(other / "dataset.json", lambda value: value.pop("kind"))
    else:
        other = Path(shutil.copytree(whole, tmp_path / "other"))
        edit_json(other / "dataset.json", lambda value: value.update(kind="sequences"))
    resign(other)
    problems = verify(other, full=True)
    assert problems
    assert all("expected that of a finished build" in str(problem) for problem in problems)
    assert any("frames.mjpg" in str(problem) for problem in problems)


def test_a_damaged_frame_is_named(folder: Path) -> None:
    shard = index.load_dataset(folder).shards[0]
    key, places = next(iter(index.load_receipt(folder / shard.receipt).members.items()))
    data = bytearray((folder / shard.name).read_bytes())
    offset, size = places["frames.mjpg"]
    data[offset + size - 2 : offset + size] = b"xx"
    (folder / shard.name).write_bytes(data)
    edit_json(folder / shard.receipt, lambda value: value.update(sha256=index.file_sha256(folder / shard.name)))
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == shard.name
    assert f"{key}: frames.mjpg: frame 4 is not a JPEG" in problem.found


def test_it_is_shared_fetched_and_withdrawn_from(folder: Path, tmp_path: Path) -> None:
    share(folder, open_writable_store(str(tmp_path / "far")), ShareOptions())
    assert verify(tmp_path / "far", full=True) == []
    fetch(str(tmp_path / "far"), tmp_path / "near")
    assert verify(tmp_path / "near", full=True) == []
    assert members_of(tmp_path / "near") == members_of(folder)
    before = index.load_checksums(folder)
    withdraw(folder, [SPEAKERS[0]])
    assert verify(folder, full=True) == []
    dataset = index.load_dataset(folder)
    assert (dataset.kind, dataset.withdrawn) == ("sequences", (SPEAKERS[0],))
    assert all(index.load_checksums(folder)[shard.name] == before[shard.name] for shard in dataset.shards)


def test_webdataset_gives_the_same_bytes(frozen: Path) -> None:
    shards = sorted(str(path) for path in frozen.glob("*.tar"))
    read = {
        each["__key__"]: {name: value for name, value in each.items() if not name.startswith("__")}
        for each in webdataset.WebDataset(shards, shardshuffle=False)
    }
    assert read == members_of(frozen)


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_the_folder_by_its_card(datasets: Any, frozen: Path, tmp_path: Path, streaming: bool) -> None:
    read = list(
        datasets.load_dataset(str(frozen), split="clips", streaming=streaming, cache_dir=str(tmp_path / "cache"))
    )
    members = members_of(frozen)
    assert [each["__key__"] for each in read] == list(members)
    for each in read:
        made = sequence.decode(members[each["__key__"]])
        assert each["frames.mjpg"] == b"".join(made.jpegs)
        offset, size = each["json"]["byte_ranges"][2]
        assert each["frames.mjpg"][offset : offset + size] == made.jpegs[2]


def test_card_describes_sequences(frozen: Path) -> None:
    card = (frozen / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert [column["name"] for column in head["dataset_info"]["features"]][:3] == list(sequence.MEMBERS)
    assert "the aligned face crop of every frame" in card
    assert "make train" in card


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_croissant_gives_the_frames(frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path / "cache"))
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(frozen / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    members = members_of(frozen)
    read = {record["samples/clip_id"].decode(): record for record in dataset.records("samples")}
    assert read.keys() == members.keys()
    for key, record in read.items():
        assert record["samples/faces"] == members[key]["frames.mjpg"]

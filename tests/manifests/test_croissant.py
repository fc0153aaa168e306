"""Croissant metadata: mlcroissant validates it, and reads clips and faces through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import index, schema
from manifests.croissant import croissant
from manifests.verify import verify
from tests.factories.builder_shards import shard_folder
from tests.factories.licences import licensed_as
from tests.factories.shards import make_folder

#: The library's own: it parses with a class that rdflib has left behind, and does not close the pictures it reads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: A folder of shards does not know when it will be published.
NO_DATE = 'Property "https://schema.org/datePublished" is recommended, but does not exist.'


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """mlcroissant, kept from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROISSANT_CACHE", str(tmp_path_factory.mktemp("croissant")))
        yield pytest.importorskip("mlcroissant")


def described(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "croissant.json").read_bytes())
    assert isinstance(value, dict)
    return value


def text(record: dict[str, Any]) -> dict[str, Any]:
    """The library gives text as bytes."""
    return {
        name.partition("/")[2]: value.decode() if isinstance(value, bytes) else value for name, value in record.items()
    }


def test_it_is_valid_with_no_warning_but_the_missing_date(whole: Path, library: Any) -> None:
    issues = library.Dataset(whole / "croissant.json").metadata.ctx.issues
    assert not issues.errors
    assert [warning.split("] ", 1)[1] for warning in issues.warnings] == [NO_DATE]


@pytest.mark.parametrize(
    ("corpus", "licence"),
    [
        ("ravdess", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
        ("crema-d", "https://opendatacommons.org/licenses/odbl/1-0/"),
        ("iemocap", "IEMOCAP licence of the University of Southern California, by signature; no redistribution"),
    ],
)
def test_licence_and_citation_are_told(folder: Path, corpus: str, licence: str, library: Any) -> None:
    dataset = index.load_dataset(licensed_as(folder, corpus))
    (folder / "croissant.json").write_bytes(croissant(dataset, clips_bytes=1, clips_sha256="0" * 64))
    metadata = library.Dataset(folder / "croissant.json").metadata
    assert metadata.license == [licence]
    assert metadata.cite_as == dataset.about["citation"]
    assert metadata.url == dataset.about["homepage"]


def test_every_shard_and_the_table_have_size_and_hash(whole: Path) -> None:
    files = [each for each in described(whole)["distribution"] if each["@type"] == "cr:FileObject"]
    assert {each["contentUrl"] for each in files} == {"clips.jsonl", *(path.name for path in whole.glob("*.tar"))}
    for each in files:
        data = (whole / each["contentUrl"]).read_bytes()
        assert each["sha256"] == hashlib.sha256(data).hexdigest()
        assert each["contentSize"] == f"{len(data)} B"


def test_it_is_hashed_and_verified_like_the_rest(folder: Path) -> None:
    assert index.load_checksums(folder)["croissant.json"] == index.file_sha256(folder / "croissant.json")
    (folder / "croissant.json").write_bytes(b"{}")
    assert [problem.file for problem in verify(folder, full=True)] == ["croissant.json"]
    (folder / "croissant.json").unlink()
    assert [problem.file for problem in verify(folder)] == ["croissant.json"]


def test_folders_made_before_there_was_any_are_whole(folder: Path) -> None:
    sums = index.load_checksums(folder)
    del sums["croissant.json"]
    (folder / "SHA256SUMS").write_bytes(index.dump_checksums(sums))
    assert [problem.file for problem in verify(folder)] == ["croissant.json"]
    (folder / "croissant.json").unlink()
    assert verify(folder, full=True) == []


def test_clips_are_read_through_it(whole: Path, library: Any) -> None:
    read = [text(record) for record in library.Dataset(whole / "croissant.json").records("clips")]
    rows = list(index.load_rows(whole))
    assert len(read) == len(rows) == 8
    for record, row in zip(read, rows, strict=True):
        assert record.pop("speaker") == (row.speaker if row.shard else None)
        assert record == {name: getattr(row, name) for name in record}


def test_clips_without_a_label_are_read_as_none(tmp_path: Path, library: Any) -> None:
    folder = make_folder(tmp_path / "shards", emotions=["joy", None], takes=1)
    data = (folder / "clips.jsonl").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    described = croissant(index.load_dataset(folder), clips_bytes=len(data), clips_sha256=digest)
    (folder / "croissant.json").write_bytes(described)
    read = [text(record) for record in library.Dataset(folder / "croissant.json").records("clips")]
    assert {record["emotion"] for record in read} == {"joy", None}


def test_speakers_written_as_numbers_stay_as_they_are_written(tmp_path: Path, library: Any) -> None:
    folder = shard_folder(tmp_path / "shards", speakers=("01", "02", "11"), drops=False)
    read = [text(record) for record in library.Dataset(folder / "croissant.json").records("clips")]
    assert [record["speaker"] for record in read] == ["01", "01", "02", "02", "11", "11"]


def test_faces_are_read_from_the_shards_through_it(whole: Path, library: Any) -> None:
    read = {
        record["clip_id"]: record for record in map(text, library.Dataset(whole / "croissant.json").records("samples"))
    }
    places = {
        key: (whole / shard.name, shard.speaker, members["faces.jpg"])
        for shard in index.load_dataset(whole).shards
        for key, members in index.load_receipt(whole / shard.receipt).members.items()
    }
    assert read.keys() == places.keys()
    for key, (tar, speaker, (offset, size)) in places.items():
        faces = schema.decode_filmstrip(tar.read_bytes()[offset : offset + size])
        np.testing.assert_array_equal(np.asarray(read[key]["faces"]), faces)
        assert (read[key]["speaker"], read[key]["emotion"]) == (speaker, key.partition("-")[2])


def test_a_changed_table_is_not_read(folder: Path, library: Any) -> None:
    with (folder / "clips.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(library.GenerationError) as caught:
        list(library.Dataset(folder / "croissant.json").records("clips"))
    assert "is not identical with the reference" in str(caught.value.__cause__)


def test_a_folder_without_shards_is_described_too(whole: Path, tmp_path: Path, library: Any) -> None:
    empty = replace(index.load_dataset(whole), shards=())
    path = tmp_path / "croissant.json"
    path.write_bytes(croissant(empty, clips_bytes=0, clips_sha256="0" * 64))
    assert [records.id for records in library.Dataset(path).metadata.record_sets] == ["clips"]


def test_other_shards_are_another_version(whole: Path) -> None:
    dataset = index.load_dataset(whole)
    fewer = replace(dataset, shards=dataset.shards[1:])
    versions = {
        json.loads(croissant(each, clips_bytes=1, clips_sha256="0" * 64))["version"] for each in (dataset, fewer)
    }
    assert len(versions) == 2


def test_it_grows_by_the_same_bytes_for_every_shard(whole: Path) -> None:
    dataset = index.load_dataset(whole)

    def size(shards: int) -> int:
        many = [replace(dataset.shards[0], name=f"p{i:05d}-000.tar", speaker=f"p{i:05d}") for i in range(shards)]
        return len(croissant(replace(dataset, shards=tuple(many)), clips_bytes=1, clips_sha256="0" * 64))

    first, second, third = size(1_000), size(2_000), size(3_000)
    assert third - second == second - first < 400_000

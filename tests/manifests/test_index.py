"""The index of a shard folder: it survives being written, and a hostile one does no harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manifests import index
from manifests.index import Dataset, ManifestError, Receipt, Row, Shard, SpectrogramSums
from manifests.records import from_json
from manifests.schema import Clip, SchemaError, encode
from manifests.verify import verify
from tests.factories.builder_shards import edit_json, resign
from tests.factories.samples import sample

SHARD = "anna-000.tar"
RECEIPT = "receipts/anna-000.json"
MEMBERS = encode(sample(Clip(clip_id="anna-joy", speaker="anna", emotion="joy")))
FLAC = MEMBERS["audio.flac"]


# Round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True)
optional = st.none() | texts
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
rows = st.builds(
    Row,
    clip_id=words,
    speaker=words,
    emotion=texts,
    intensity=optional,
    sentence=optional,
    status=st.sampled_from(index.STATUSES),
    reason=optional,
    detail=optional,
    flags=st.lists(texts, max_size=3).map(tuple),
    faces_found=st.none() | st.integers(0, 16),
    source=texts,
    sha256=st.none() | digests,
    sound=optional,
    sound_sha256=st.none() | digests,
    shard=st.none() | st.just(SHARD),
)
sums = st.floats(-1e15, 1e15)
statistics = st.fixed_dictionaries(
    {
        name: st.builds(
            SpectrogramSums,
            count=st.integers(1, 1 << 40),
            total=st.lists(sums, min_size=13, max_size=13).map(tuple),
            squares=st.lists(sums, min_size=13, max_size=13).map(tuple),
        )
        for name in ("mfcc_16", "mfcc_8")
    }
)
places = st.dictionaries(
    words,
    st.dictionaries(st.sampled_from(["faces.jpg", "json"]), st.tuples(st.integers(0, 500), st.integers(0, 500))),
    max_size=3,
)
json_texts = st.dictionaries(texts, optional | st.booleans() | st.integers(-(1 << 50), 1 << 50), max_size=3)


def shard_of(speaker: str, sha256: str, size: int) -> Shard:
    return Shard(
        name=f"{speaker}-012.tar",
        speaker=speaker,
        sha256=sha256,
        bytes=size,
        samples=size,
        receipt_sha256=sha256,
    )


@given(st.lists(rows, max_size=4))
@settings(max_examples=30)
def test_rows_survive(tmp_path_factory: pytest.TempPathFactory, before: list[Row]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "clips.jsonl").write_bytes(index.dump_rows(before))
    assert list(index.load_rows(folder)) == before


@given(
    plan=texts,
    sha256=st.none() | digests,
    members=places,
    rows=st.lists(rows, max_size=2).map(tuple),
    statistics=statistics,
)
@settings(max_examples=30)
def test_receipts_survive(tmp_path_factory: pytest.TempPathFactory, **made: Any) -> None:
    path = tmp_path_factory.mktemp("receipt") / "a.json"
    before = Receipt(shard="anna-007.tar", speaker="anna", bytes=1000, **made)
    path.write_bytes(index.dump_receipt(before))
    assert index.load_receipt(path) == before


@given(
    about=json_texts,
    counts=st.dictionaries(texts, st.integers(0, 1 << 50), max_size=3),
    shards=st.lists(st.builds(shard_of, words, digests, st.integers(0, 1 << 50)), max_size=3),
    names=st.lists(words, max_size=2).map(tuple),
    complete=st.booleans(),
    other=json_texts,
)
@settings(max_examples=30)
def test_datasets_survive(tmp_path_factory: pytest.TempPathFactory, **made: Any) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    before = Dataset(
        dataset="crema-d",
        complete=made["complete"],
        identity={**made["other"], "config": {"features": ["mfcc"]}},
        about=made["about"],
        label_schemes=made["names"],
        fold_schemes=made["names"],
        counts=made["counts"],
        shards=tuple({shard.name: shard for shard in made["shards"]}.values()),
    )
    (folder / "dataset.json").write_bytes(index.dump_dataset(before))
    after = index.load_dataset(folder)
    assert after == before
    assert after.features == ("mfcc",)


@given(st.dictionaries(st.from_regex(r"(folds/)?[\w. -]{1,20}[a-z]", fullmatch=True), digests, min_size=1))
@settings(max_examples=30)
def test_sums_survive(tmp_path_factory: pytest.TempPathFactory, before: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("sums")
    (folder / "SHA256SUMS").write_bytes(index.dump_checksums(before))
    assert index.load_checksums(folder) == before


windows = arrays.arrays(
    np.float16, st.tuples(st.integers(1, 4), st.just(3), st.integers(1, 9)), elements=st.floats(-500, 500, width=16)
)


@given(windows)
def test_statistics_give_mean_and_deviation(values: np.ndarray) -> None:
    found = SpectrogramSums.of(values)
    mean = np.array(found.total) / found.count
    deviation = np.sqrt(np.maximum(np.array(found.squares) / found.count - mean**2, 0))
    np.testing.assert_allclose(mean, values.astype(float).mean(axis=(0, 2)), atol=1e-9)
    np.testing.assert_allclose(deviation, values.astype(float).std(axis=(0, 2)), atol=1e-4)


@given(windows, windows)
def test_statistics_add_up_to_those_of_all_together(one: np.ndarray, other: np.ndarray) -> None:
    columns = min(one.shape[2], other.shape[2])
    one, other = one[:, :, :columns], other[:, :, :columns]
    added, together = (
        SpectrogramSums.of(one) + SpectrogramSums.of(other),
        SpectrogramSums.of(np.concatenate([one, other])),
    )
    assert added.count == together.count
    np.testing.assert_allclose(added.total, together.total, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(added.squares, together.squares, rtol=1e-12, atol=1e-9)


# Hostile indexes


def first_shard(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["shards"][0].update(changes)


def config(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["identity"]["config"].update(changes)


def mfcc_16(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["statistics"]["mfcc_16"].update(changes)


HOSTILE_DATASETS: dict[str, Callable[[dict[str, Any]], object]] = {
    "parent": first_shard(name="../anna-000.tar"),
    "absolute": first_shard(name="/anna-000.tar"),
    "scheme": first_shard(name="https://x/anna-000.tar"),
    "pipe": first_shard(name="pipe:cat anna-000.tar"),
    "line end": first_shard(name="anna-000.tar\n"),
    "other digits": first_shard(name="anna-\u0660\u0660\u0660.tar"),
    "compressed": first_shard(name="anna-000.tar.gz"),
    "another speaker's": first_shard(name="ben-000.tar"),
    "speaker": first_shard(speaker="../anna"),
    "no text": first_shard(name=None),
    "hash": first_shard(sha256="0" * 63),
    "upper case": first_shard(receipt_sha256="A" * 64),
    "size text": first_shard(bytes="1"),
    "size negative": first_shard(bytes=-1),
    "size too large": first_shard(bytes=10**30),
    "samples too many": first_shard(samples=1 << 63),
    "missing too many": lambda value: value.update(missing=10**400),
    "samples true": first_shard(samples=True),
    "samples negative": first_shard(samples=-5),
    "shard twice": lambda value: value["shards"].append(value["shards"][0]),
    "shards no list": lambda value: value.update(shards={"a": 1}),
    "a shard no object": lambda value: value.update(shards=["anna-000.tar"]),
    "fold scheme elsewhere": lambda value: value.update(fold_schemes=["../../secret"]),
    "label scheme": lambda value: value.update(label_schemes="ravdess-8"),
    "features text": config(features="mfcc"),
    "features none": config(features=[]),
    "features unknown": config(features=["mfcc", "../x"]),
    "features odd": config(features=[{}]),
    "identity": lambda value: value.update(identity=[]),
    "no config": lambda value: value.update(identity={}),
    "dataset": lambda value: value.update(dataset="a/b"),
    "complete": lambda value: value.update(complete="yes"),
    "counts": lambda value: value.update(counts={"built": 1.5}),
    "unknown key": lambda value: value.update(run="rm"),
    "absent key": lambda value: value.pop("about"),
    "version": lambda value: value.update(schema_version=2),
    "no version": lambda value: value.pop("schema_version"),
    "odd version": lambda value: value.update(schema_version=[1]),
}
HOSTILE_RECEIPTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "shard": lambda value: value.update(shard="../anna-000.tar"),
    "size": lambda value: value.update(bytes="1"),
    "clip id": lambda value: value["members"].update({"../x": {}}),
    "member": lambda value: value["members"].update({"x": {"evil.sh": [0, 1]}}),
    "before": lambda value: value["members"].update({"x": {"json": [-1, 1]}}),
    "beyond": lambda value: value["members"].update({"x": {"json": [value["bytes"], 1]}}),
    "huge": lambda value: value["members"].update({"x": {"json": [0, 10**13]}}),
    "negative": lambda value: value["members"].update({"x": {"json": [0, -1]}}),
    "no pair": lambda value: value["members"].update({"x": {"json": [0]}}),
    "fraction": lambda value: value["members"].update({"x": {"json": [0.5, 1]}}),
    "no rows": lambda value: value.pop("rows"),
    "row": lambda value: value["rows"].append([]),
    "statistics": lambda value: value["statistics"].update(chroma_16={"count": 1, "total": [], "squares": []}),
    "statistics elsewhere": lambda value: value["statistics"].update(
        {"../x": {"count": 1, "total": [], "squares": []}}
    ),
    "statistics short": mfcc_16(total=[0.0] * 12),
    "statistics of nothing": mfcc_16(count=0),
    "statistics not finite": mfcc_16(squares=[float("nan")] * 13),
    "statistics text": mfcc_16(squares="0" * 13),
    "statistics of very many": mfcc_16(count=10**400),
    "statistics too large": mfcc_16(total=[10**400] * 13),
    "size too large": lambda value: value.update(bytes=10**30),
    "sizes negative": lambda value: value.update(bytes=-(10**30)),
}
HOSTILE_ROWS: dict[str, dict[str, Any]] = {
    "status": {"status": "done"},
    "no status": {"status": None},
    "shard": {"shard": "/etc/passwd"},
    "flags": {"flags": "silent"},
    "flag": {"flags": [1]},
    "faces": {"faces_found": "16"},
    "clip id": {"clip_id": 5},
    "unknown": {"x": 1},
}
NO_OBJECTS: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"a": ',
    "list": b"[]",
    "text": b'"x"',
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "bytes": b"\xff\xfe\xfd",
    "digits": b'{"schema_version": ' + b"9" * 5000 + b"}",
}


def parametrized(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


@parametrized(HOSTILE_DATASETS)
def test_hostile_dataset_is_refused(folder: Path, case: Callable[[dict[str, Any]], object]) -> None:
    edit_json(folder / "dataset.json", case)
    with pytest.raises(ManifestError, match=r"dataset\.json"):
        index.load_dataset(folder)
    with pytest.raises(ManifestError):
        verify(folder)


def test_statistics_that_an_older_index_repeats_are_not_read(folder: Path) -> None:
    before = index.load_dataset(folder)
    edit_json(
        folder / "dataset.json", first_shard(statistics={"mfcc_16": {"count": 1, "total": [0.0], "squares": [0.0]}})
    )
    assert index.load_dataset(folder) == before


@parametrized(HOSTILE_RECEIPTS)
def test_hostile_receipt_is_refused(folder: Path, case: Callable[[dict[str, Any]], object]) -> None:
    edit_json(folder / RECEIPT, case)
    with pytest.raises(ManifestError, match=r"anna-000\.json"):
        index.load_receipt(folder / RECEIPT)
    resign(folder)
    assert [problem.file for problem in verify(folder, full=True)] == [RECEIPT]


@parametrized(HOSTILE_ROWS)
def test_hostile_row_is_refused_with_its_line(folder: Path, case: dict[str, Any]) -> None:
    lines = (folder / "clips.jsonl").read_bytes().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | case).encode()
    (folder / "clips.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(ManifestError, match=r"clips\.jsonl:3: "):
        list(index.load_rows(folder))
    with pytest.raises(SchemaError):
        from_json(Row, json.loads(lines[2]), "row")


@parametrized(NO_OBJECTS)
def test_what_is_no_object_is_refused(folder: Path, case: bytes) -> None:
    for name in ("dataset.json", "receipts/anna-000.json", "clips.jsonl"):
        (folder / name).write_bytes(case or b"\n")
    with pytest.raises(ManifestError, match=r"dataset\.json"):
        index.load_dataset(folder)
    with pytest.raises(ManifestError, match=r"anna-000\.json"):
        index.load_receipt(folder / RECEIPT)
    with pytest.raises(ManifestError, match=r"clips\.jsonl:1"):
        list(index.load_rows(folder))


@pytest.mark.parametrize("name", ["dataset.json", "SHA256SUMS", RECEIPT, "clips.jsonl"])
def test_huge_index_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(10**12)  # sparse
    readers = [
        index.load_dataset,
        index.load_checksums,
        lambda f: index.load_receipt(f / RECEIPT),
        lambda f: [*index.load_rows(f)],
    ]
    refused = []
    for reader in readers:
        try:
            reader(folder)
        except ManifestError as error:
            refused.append(str(error))
    assert len(refused) == 1
    assert name in refused[0]


@pytest.mark.parametrize("name", ["dataset.json", "SHA256SUMS"])
def test_without_an_index_there_is_nothing_to_verify(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ManifestError, match=f"{name}: missing"):
        verify(folder)
    (folder / name).mkdir()
    with pytest.raises(ManifestError, match=f"{name}: missing"):
        verify(folder)


def test_rows_need_their_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="missing"):
        list(index.load_rows(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        "../x", "a/../x", "/etc/passwd", "a/b/c", "", ".", "..", "a/", "/a", "https://x/y", "C:\\x", "a\\b", "s3:x",
        "a\x1b[31m", "a\rb", "x" * 300,
    ],
)  # fmt: skip
def test_sums_name_files_of_the_folder_only(folder: Path, line: str) -> None:
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {line}\n", newline="")
    with pytest.raises(ManifestError, match=r"SHA256SUMS:1: .*expected a SHA-256 and a plain name"):
        verify(folder)


@pytest.mark.parametrize("text", [b"", b"\n", b"0" * 63 + b"  a\n", b"0" * 64 + b" a\n", b"G" * 64 + b"  a\n", b"\xff"])
def test_sums_are_lines_of_sha256(folder: Path, text: bytes) -> None:
    (folder / "SHA256SUMS").write_bytes(text)
    with pytest.raises(ManifestError, match="SHA256SUMS:1"):
        verify(folder)


def test_sums_name_a_file_once(folder: Path) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  README.md\n")
    with pytest.raises(ManifestError, match=r"SHA256SUMS:\d+: .*once"):
        verify(folder)


# Hostile tars


def tar_of(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in {"type": kind, **fields}.items():
        setattr(member, field, value)
    return member


def claiming(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = named("a.json", kind)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


PLAIN = (named("a.json"), b"{}")
HOSTILE_TARS: dict[str, bytes] = {
    "empty file": b"",
    "zeros then noise": b"noise" * 200,
    "parent": tar_of((named("../a.json"), b"{}")),
    "absolute": tar_of((named("/a.json"), b"{}")),
    "in a folder": tar_of((named("b/a.json"), b"{}")),
    "hidden": tar_of((named(".json"), b"{}")),
    "no suffix": tar_of((named("a"), b"{}")),
    "space": tar_of((named("a b.json"), b"{}")),
    "unknown suffix": tar_of((named("a.pickle"), b"{}")),
    "link": tar_of((named("a.json", tarfile.SYMTYPE, linkname="/etc/passwd"), b"")),
    "hard link": tar_of(PLAIN, (named("b.json", tarfile.LNKTYPE, linkname="a.json"), b"")),
    "device": tar_of((named("a.json", tarfile.CHRTYPE, devmajor=1, devminor=5), b"")),
    "pipe": tar_of((named("a.json", tarfile.FIFOTYPE), b"")),
    "folder": tar_of((named("a.json", tarfile.DIRTYPE), b"")),
    "contiguous": tar_of((named("a.json", tarfile.CONTTYPE), b"{}")),
    "twice": tar_of(PLAIN, PLAIN),
    "long name": tar_of((named("a" * 90 + ".json"), b"{}"), kind=tarfile.GNU_FORMAT),
    "very long name": tar_of((named("a" * 300 + ".json"), b"{}"), kind=tarfile.GNU_FORMAT),
    "path in a header": tar_of((named("a.json", pax_headers={"path": "b.json"}), b"{}"), kind=tarfile.PAX_FORMAT),
    "size in a header": tar_of((named("a.json", pax_headers={"size": "1"}), b"{}"), kind=tarfile.PAX_FORMAT),
    "no number": tar_of((named("a.json", pax_headers={"size": "x"}), b"{}"), kind=tarfile.PAX_FORMAT),
    "large": tar_of((named("a.json"), bytes(2 << 20))),
    "terabytes": claiming(10**13),
    "negative": claiming(-512),
    "name of terabytes": claiming(10**13, tarfile.GNUTYPE_LONGNAME),
    "name of exabytes": claiming(1 << 70, tarfile.GNUTYPE_LONGNAME),
    "header of terabytes": claiming(10**13, tarfile.XHDTYPE),
    "time in a header": tar_of((named("a.json", mtime=0.5), b"{}"), kind=tarfile.PAX_FORMAT),
    "no sparse map": tar_of((named("a.json", pax_headers={"GNU.sparse.map": "x"}), b"{}"), kind=tarfile.PAX_FORMAT),
    "compressed": gzip.compress(tar_of(PLAIN)),
}  # fmt: skip


@parametrized(HOSTILE_TARS)
def test_hostile_tar_is_refused(folder: Path, case: bytes) -> None:
    (folder / SHARD).write_bytes(case)
    with pytest.raises(SchemaError) as caught:
        index.member_byte_ranges(folder / SHARD)
    assert len(str(caught.value)) < 300
    resign(folder)
    assert [problem.file for problem in verify(folder, full=True)] == [SHARD, RECEIPT]  # which is of another tar


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """They are there, as a hole in the file."""
    tar = tmp_path / "a.tar"
    tar.write_bytes(claiming(3 << 30, kind))
    os.truncate(tar, 4 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(
            SchemaError, match=r"^a\.tar: found member 'a\.json', expected KEY\.suffix, once, a regular"
        ):
            index.member_byte_ranges(tar)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_plain_tar_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(PLAIN, (named("a.audio.flac"), FLAC)))
    assert index.member_byte_ranges(tmp_path / "a.tar") == {"a": {"json": (512, 2), "audio.flac": (1536, len(FLAC))}}


def test_samples_have_all_members(folder: Path) -> None:
    """Even where tar, receipt and index agree on a sample without its description."""
    receipt = index.load_receipt(folder / RECEIPT)
    data = (folder / SHARD).read_bytes()
    kept = [
        (named(f"{key}.{suffix}"), data[offset : offset + size])
        for key, suffixes in receipt.members.items()
        for suffix, (offset, size) in suffixes.items()
        if suffix != "json"
    ]
    (folder / SHARD).write_bytes(tar_of(*kept))
    members = index.member_byte_ranges(folder / SHARD)
    size, sha256 = (folder / SHARD).stat().st_size, index.file_sha256(folder / SHARD)
    issued = replace(receipt, members=members, bytes=size, sha256=sha256)
    (folder / RECEIPT).write_bytes(index.dump_receipt(issued))
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == SHARD
    assert "found anna-fear with audio.flac, faces.jpg, mfcc_16.npy, mfcc_8.npy, expected" in problem.found


def test_receipt_and_tar_must_agree(folder: Path) -> None:
    edit_json(folder / RECEIPT, lambda value: value["members"]["anna-joy"].update(json=[0, 1]))
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == SHARD
    assert f"found other members than in {RECEIPT}" in problem.found


def test_promised_samples_must_be_there(folder: Path) -> None:
    edit_json(folder / "dataset.json", first_shard(samples=3))
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == RECEIPT
    assert re.search(r"found \(.*, 2\), expected \(.*, 3\) as in dataset\.json", problem.found)


@given(at=st.integers(0, 2048), replaced=st.integers(0, 600), by=st.binary(max_size=600))
@settings(max_examples=200)
def test_damaged_tar_headers_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, replaced: int, by: bytes
) -> None:
    tar = tmp_path_factory.getbasetemp() / "damaged.tar"
    data = tar_of(PLAIN, (named("b" * 120 + ".json"), b"{}"), kind=tarfile.GNU_FORMAT)
    tar.write_bytes(data[:at] + by + data[at + replaced :])
    try:
        places = index.member_byte_ranges(tar)
    except SchemaError as error:
        assert "damaged.tar" in str(error)
    else:
        assert all(offset + size <= tar.stat().st_size for each in places.values() for offset, size in each.values())

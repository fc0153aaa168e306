"""Samples and folders of tokens: encoded, decoded, refused by name where a stranger wrote them, shared and read."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.report.shard_reader import read_folder
from manifests import index, kinds, tokens
from manifests.fetch import fetch
from manifests.index import ManifestError
from manifests.kinds import TOKENS
from manifests.records import SchemaError
from manifests.sequence import MAX_FRAMES
from manifests.share import ShareOptions, share
from manifests.stores import open_writable_store
from manifests.tokens import Codebooks, TokenSource, token_source
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories.builder_shards import edit_json, resign, shard_folder
from tests.factories.licences import licensed_as
from tests.factories.samples import token_sample

MADE = token_sample()
MEMBERS = tokens.encode(MADE)
#: Of no other test: mlcroissant caches shards by their names.
SPEAKERS = ("ida", "jo", "kim", "leo")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def described(**changes: Any) -> bytes:
    """The json with other values; ... removes one."""
    meta = json.loads(MEMBERS["json"]) | changes
    return json.dumps({name: value for name, value in meta.items() if value is not ...}).encode()


def timed(**changes: Any) -> bytes:
    return described(timing=json.loads(MEMBERS["json"])["timing"] | changes)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(("faces", "spectra"), [(1, 1), (5, 11), (60, 121)])
def test_a_sample_comes_back(faces: int, spectra: int) -> None:
    made = token_sample(faces=faces, spectra=spectra)
    members = tokens.encode(made)
    assert tuple(members) == tokens.MEMBERS == kinds.KINDS[TOKENS].members(("mfcc",))
    after = tokens.decode(members)
    assert replace(after, visual=made.visual, audio=made.audio) == made
    np.testing.assert_array_equal(after.visual, made.visual)
    np.testing.assert_array_equal(after.audio, made.audio)
    assert (after.visual.dtype, after.audio.dtype) == (np.uint16, np.uint8)
    assert tokens.encode(after) == members
    assert tokens.check(members) == made.clip


def test_numpy_reads_the_members() -> None:
    np.testing.assert_array_equal(np.load(io.BytesIO(MEMBERS["visual.npy"])), MADE.visual)
    np.testing.assert_array_equal(np.load(io.BytesIO(MEMBERS["audio.npy"])), MADE.audio)


def test_masks_come_back_and_are_another_version() -> None:
    masked = replace(MADE, faces_present=(True, False, True, True, True), sound_present=(False,) * 5)
    members = tokens.encode(masked)
    after = tokens.decode(members)
    assert (after.faces_present, after.sound_present) == (masked.faces_present, masked.sound_present)
    assert json.loads(members["json"])["schema_version"] == 2


def test_the_longest_clip_fits() -> None:
    longest = token_sample(faces=MAX_FRAMES, spectra=tokens.MAX_SPECTRA)
    assert len(tokens.decode(tokens.encode(longest)).visual) == MAX_FRAMES


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"audio.npy": ...}, r"found members \['json', 'visual.npy'\], expected visual.npy, audio.npy, json"),
        ({"faces.jpg": b""}, "found members"),
        ({"visual.npy": b""}, "visual.npy: found b'', 0 bytes; expected npy 1.0"),
        ({"visual.npy": MEMBERS["audio.npy"]}, "visual.npy: found b.*expected npy 1.0 with"),
        ({"audio.npy": MEMBERS["audio.npy"][:-1]}, "audio.npy: found b"),
        ({"audio.npy": npy(MADE.audio.astype(np.uint16))}, r"'shape': \(22, 64\), }"),
        ({"audio.npy": npy(MADE.audio[:0])}, r"audio.npy: found uint8 \(0, 64\), expected uint8"),
        ({"visual.npy": npy(MADE.visual[:3])}, "visual: found 3, expected 5, one for each face"),
        ({"visual.npy": npy(np.full((5, 24, 24), 512, np.uint16))}, "found code 512, expected codes below 512"),
        ({"json": described(codebooks={"audio": 200, "visual": 512})}, "expected codes below 200"),
        ({"json": described(codebooks={"audio": 257, "visual": 512})}, "codebooks: found 257 and 512"),
        ({"json": described(tokenizer="x")}, "tokenizer: found 'x', expected a SHA-256"),
        ({"json": described(tokenizer=...)}, "json: missing tokenizer"),
        ({"json": described(face_found=[True])}, "face_found: found 1, expected 5, one for each face"),
        ({"json": described(schema_version=2)}, "json: missing faces_present, sound_present"),
        ({"json": timed(rate_hz=0.0)}, "found 0.0 and 50.0 a second, expected more than 0"),
        ({"json": timed(frame_seconds=[0.1, 0.05, 0.2, 0.2, 0.2])}, "expected ascending times within it"),
        ({"json": timed(frame_seconds=[])}, "found 0 faces, expected 1 to 4096"),
        ({"json": b"{"}, "json: cannot be parsed"),
    ],
)
def test_what_is_no_sample_is_refused_by_name(members: dict[str, Any], message: str) -> None:
    changed = {name: data for name, data in (MEMBERS | members).items() if data is not ...}
    with pytest.raises(SchemaError, match=message):
        tokens.decode(changed)


@given(st.sampled_from(tokens.MEMBERS), st.data())
def test_damaged_members_are_samples_or_refused(name: str, data: st.DataObject) -> None:
    raw = bytearray(MEMBERS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = tokens.decode(MEMBERS | {name: bytes(raw)})
    except SchemaError:
        return
    assert found.visual.max() < 512


def test_what_tokens_were_made_of_is_in_the_identity() -> None:
    made_of = TokenSource(
        index_sha256="0" * 64,
        tokenizer="f" * 64,
        codebooks=Codebooks(audio=256, visual=512),
        lineage={"origin": "random weights"},
        versions={"torch": "2"},
    )
    plain = {**vars(made_of), "codebooks": vars(made_of.codebooks)}
    assert token_source({tokens.SOURCE_KEY: plain}, "dataset.json") == made_of
    with pytest.raises(SchemaError, match=r"dataset.json: tokens_from: found None, expected an object"):
        token_source({}, "dataset.json")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of tokens that no test changes."""
    folder = shard_folder(tmp_path_factory.mktemp("tokens") / "shards", kind=TOKENS, speakers=SPEAKERS)
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
    assert (dataset.kind, dataset.members) == ("tokens", tokens.MEMBERS)
    assert verify(frozen, full=True) == []
    assert {tokens.check(members).clip_id for members in members_of(frozen).values()} == members_of(frozen).keys()


def test_a_report_of_pictures_is_refused(frozen: Path) -> None:
    with pytest.raises(ManifestError, match="found shards of tokens, which have no pictures"):
        read_folder(frozen)


def test_codes_beyond_their_codebook_are_found(folder: Path) -> None:
    shard = index.load_dataset(folder).shards[0]
    key, places = next(iter(index.load_receipt(folder / shard.receipt).members.items()))
    data = bytearray((folder / shard.name).read_bytes())
    offset, size = places["visual.npy"]
    data[offset + size - 2 : offset + size] = b"\xff\xff"
    (folder / shard.name).write_bytes(data)
    edit_json(folder / shard.receipt, lambda value: value.update(sha256=index.file_sha256(folder / shard.name)))
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == shard.name
    assert f"{key}: visual.npy: found code 65535, expected codes below 512" in problem.found


def test_it_is_shared_fetched_and_withdrawn_from(folder: Path, tmp_path: Path) -> None:
    share(folder, open_writable_store(str(tmp_path / "far")), ShareOptions())
    fetch(str(tmp_path / "far"), tmp_path / "near")
    assert verify(tmp_path / "near", full=True) == []
    assert members_of(tmp_path / "near") == members_of(folder)
    before = index.load_checksums(folder)
    withdraw(folder, [SPEAKERS[0]])
    assert verify(folder, full=True) == []
    dataset = index.load_dataset(folder)
    assert (dataset.kind, dataset.withdrawn) == ("tokens", (SPEAKERS[0],))
    assert all(index.load_checksums(folder)[shard.name] == before[shard.name] for shard in dataset.shards)


def test_webdataset_gives_the_same_bytes(frozen: Path) -> None:
    shards = sorted(str(path) for path in frozen.glob("*.tar"))
    read = {
        each["__key__"]: {name: value for name, value in each.items() if not name.startswith("__")}
        for each in webdataset.WebDataset(shards, shardshuffle=False)
    }
    assert read == members_of(frozen)


def test_card_describes_tokens(frozen: Path) -> None:
    card = (frozen / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert [column["name"] for column in head["dataset_info"]["features"]][:3] == list(tokens.MEMBERS)
    assert "24x24 codes of every aligned face" in card


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_croissant_is_valid(frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path / "cache"))
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(frozen / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert len(list(dataset.records("clips"))) >= len(members_of(frozen))

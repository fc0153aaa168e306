"""Shards, here or on a web server, are read by the field's own readers: webdataset and Hugging Face datasets."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from manifests import index, schema
from manifests.schema import Clip, Sample
from tests.factories.samples import sample
from tests.fakes.servers import FileServer

#: Built one after another, webdataset's file handles are left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def shards(whole: Path) -> list[str]:
    return sorted(str(path) for path in whole.glob("*.tar"))


@pytest.fixture(scope="module")
def urls(whole: Path, shards: list[str]) -> Iterator[list[str]]:
    """Addresses of the same shards on a web server."""
    with FileServer(whole, prefix="lab/shards") as server:
        yield [f"{server.url}/{Path(shard).name}" for shard in shards]


@pytest.fixture(scope="module")
def ours(whole: Path) -> dict[str, dict[str, bytes]]:
    """Clip id -> member suffix -> bytes, as the receipts say."""
    found = {}
    for shard in index.load_dataset(whole).shards:
        data = (whole / shard.name).read_bytes()
        for key, places in index.load_receipt(whole / shard.receipt).members.items():
            found[key] = {suffix: data[offset : offset + size] for suffix, (offset, size) in places.items()}
    return found


def same_as_ours(read: dict[str, Any], members: dict[str, bytes]) -> None:
    """Decoded values of one sample are those of our own decoder."""
    made = schema.decode(members)
    np.testing.assert_array_equal(read["faces.jpg"], schema.decode_filmstrip(members["faces.jpg"]))
    for name, windows in made.spectrograms.items():
        np.testing.assert_array_equal(read[f"{name}.npy"], windows)
    assert read["audio.flac"] == members["audio.flac"]
    for name, value in schema.decode_metadata(members["json"]).items():
        if name == "timing":  # some JSON readers drop the last digit
            assert {key: pytest.approx(times) for key, times in value.items()} == read["json"][name]
        else:
            assert read["json"][name] == value


@pytest.mark.parametrize("where", ["shards", "urls"])
def test_webdataset_gives_the_same_bytes(
    where: str, request: pytest.FixtureRequest, ours: dict[str, dict[str, bytes]]
) -> None:
    read = {
        each["__key__"]: {name: value for name, value in each.items() if not name.startswith("__")}
        for each in webdataset.WebDataset(request.getfixturevalue(where), shardshuffle=False)
    }
    assert read == ours


def test_webdataset_decodes_the_same_values(shards: list[str], ours: dict[str, dict[str, bytes]]) -> None:
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [each["__key__"] for each in read] == list(ours)
    for each in read:
        same_as_ours(each, ours[each["__key__"]])


def features(datasets: Any) -> Any:
    """What the members are; without it the library guesses, and wants torchcodec for FLAC."""
    array = datasets.List(datasets.List(datasets.List(datasets.Value("float16"))))
    return datasets.Features(
        {
            "faces.jpg": datasets.Image(),
            "mfcc_16.npy": array,
            "mfcc_8.npy": array,
            "audio.flac": datasets.Value("binary"),
            "json": datasets.Json(),
            "__key__": datasets.Value("string"),
            "__url__": datasets.Value("string"),
        }
    )


@pytest.mark.parametrize(("where", "streaming"), [("shards", True), ("shards", False), ("urls", True)])
def test_datasets_reads_the_same_values(
    datasets: Any,
    where: str,
    request: pytest.FixtureRequest,
    ours: dict[str, dict[str, bytes]],
    tmp_path: Path,
    streaming: bool,
) -> None:
    if where == "urls":
        pytest.importorskip("aiohttp")
    read = datasets.load_dataset(
        "webdataset",
        data_files={"clips": request.getfixturevalue(where)},
        split="clips",
        features=features(datasets),
        streaming=streaming,
        cache_dir=str(tmp_path),
    )
    keys = []
    for each in read:
        keys.append(each["__key__"])
        same_as_ours(each | {"faces.jpg": np.asarray(each["faces.jpg"])}, ours[each["__key__"]])
    assert keys == list(ours)


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_guesses_types_that_hold_for_later_samples(datasets: Any, tmp_path: Path, streaming: bool) -> None:
    """It looks at five samples; the sixth has a flag, an intensity and a sentence where they had none."""
    bare = [sample(Clip(clip_id=f"c{i}", speaker="a", emotion="joy"), flags=()) for i in range(5)]
    full = Clip(clip_id="c5", speaker="a", emotion="joy", intensity="strong", sentence="hello")
    shard = write_without_sound(tmp_path / "a-000.tar", [*bare, sample(full, flags=("silent",))])
    read = list(
        datasets.load_dataset(
            "webdataset",
            data_files={"clips": [str(shard)]},
            split="clips",
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )
    )
    assert [each["json"]["flags"] for each in read] == [""] * 5 + ["silent"]
    assert [each["json"]["intensity"] for each in read] == [""] * 5 + ["strong"]
    np.testing.assert_array_equal(read[5]["mfcc_8.npy"], sample(full).spectrograms["mfcc_8"])


def write_without_sound(path: Path, samples: list[Sample]) -> Path:
    """Guessing types, the library needs torchcodec for FLAC, which these tests do without."""
    with tarfile.open(path, "w") as archive:
        for each in samples:
            for suffix, data in schema.encode(each).items():
                if suffix != "audio.flac":
                    member = tarfile.TarInfo(f"{each.clip.clip_id}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return path

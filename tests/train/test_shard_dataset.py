"""The map-style dataset: what the contract decodes, in a stock DataLoader, without a side that leaks into another."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import train
from manifests import index
from manifests.errors import UserError
from manifests.schema import decode
from tests.factories.shards import EMOTIONS, SPEAKERS, make_folder
from train import ShardDataset
from train.data import DataError


def stored(folder: Path, key: str):
    """The sample as the contract decodes it."""
    tar = folder / f"{key.split('-')[0]}-000.tar"
    data = tar.read_bytes()
    return decode({name: data[o : o + s] for name, (o, s) in index.member_byte_ranges(tar)[key].items()})


def test_an_item_is_what_the_contract_decodes(shards: Path) -> None:
    dataset = ShardDataset(shards, fold=1)
    assert (len(dataset), dataset.classes) == (8, EMOTIONS)
    for place, item in enumerate(dataset):
        sample = stored(shards, item["key"])
        assert (item["faces"].dtype, item["faces"].shape) == (torch.float32, (16, 3, 224, 224))
        assert (item["spectrograms"].dtype, item["spectrograms"].shape) == (torch.float32, (16, 13, 224))
        assert np.array_equal((item["faces"] * 255).round().byte().permute(0, 2, 3, 1).numpy(), sample.faces)
        assert np.array_equal(item["spectrograms"].numpy(), sample.spectrograms["mfcc_16"])
        assert dataset.classes[item["label"]] == sample.clip.emotion
        assert (item["speaker"], item["missing"]) == (sample.clip.speaker, "")
        assert (dataset.labels[place], dataset.speakers[place], dataset.keys[place]) == (
            item["label"],
            item["speaker"],
            item["key"],
        )


def test_faces_as_bytes_eight_windows_and_normalized_rows(shards: Path) -> None:
    raw, dataset = (
        ShardDataset(shards, fold="anna", windows=8, normalize=normalize, face_dtype=torch.uint8)
        for normalize in (False, True)
    )
    assert dataset[0]["faces"].dtype == torch.uint8
    every = torch.stack([item["spectrograms"] for item in dataset])
    assert every.shape == (8, 8, 13, 224)
    torch.testing.assert_close(every.mean(dim=(0, 1, 3)), torch.zeros(13), atol=2e-3, rtol=0)
    torch.testing.assert_close(every.std(dim=(0, 1, 3)), torch.ones(13), atol=2e-3, rtol=0)
    mean, std = (torch.tensor(row)[:, None] for row in (raw.normalization.mean, raw.normalization.std))
    torch.testing.assert_close(dataset[3]["spectrograms"], (raw[3]["spectrograms"] - mean) / std)


def test_sides_share_no_speaker_but_the_normalization_of_training(shards: Path) -> None:
    sides = {side: ShardDataset(shards, fold=2, side=side) for side in ("train", "validation", "test")}
    speakers = [set(dataset.speakers) for dataset in sides.values()]
    assert speakers[2] == {SPEAKERS[1]}
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == len(SPEAKERS)
    assert len({dataset.normalization for dataset in sides.values()}) == 1
    clips = torch.stack([item["spectrograms"] for item in sides["train"]])
    found = torch.tensor(sides["test"].normalization.mean)
    torch.testing.assert_close(clips.mean(dim=(0, 1, 3)), found, rtol=1e-3, atol=1e-3)


def test_items_are_writable_and_own_their_memory(shards: Path) -> None:
    dataset = ShardDataset(shards, fold=1)
    first, again = dataset[0], dataset[0]
    for name in ("faces", "spectrograms"):
        tensor, before = first[name], again[name].clone()
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        tensor.zero_()
        assert torch.equal(again[name], before)
        assert again[name].numpy().flags.writeable
    dataset.labels[:] = -1
    assert dataset[0]["label"] == 0


@pytest.mark.parametrize("start", ["fork", "spawn", None])
def test_a_stock_dataloader_gives_every_clip_once(shards: Path, start: str | None) -> None:
    dataset = ShardDataset(shards, fold=1)
    expected = dataset[0]  # the parent has open files and a lock
    generator = torch.Generator().manual_seed(1)
    workers = {"num_workers": 2, "multiprocessing_context": start} if start else {}
    batches = list(DataLoader(dataset, batch_size=3, shuffle=True, generator=generator, **workers))
    assert [len(batch["key"]) for batch in batches] == [3, 3, 2]
    keys = [key for batch in batches for key in batch["key"]]
    assert sorted(keys) == sorted(dataset.keys)
    assert keys != list(dataset.keys)
    assert (batches[0]["faces"].dtype, batches[0]["faces"].shape) == (torch.float32, (3, 16, 3, 224, 224))
    assert batches[0]["label"].dtype == torch.int64
    batch = next(batch for batch in batches if expected["key"] in batch["key"])
    row = batch["key"].index(expected["key"])
    assert torch.equal(batch["faces"][row], expected["faces"])
    assert torch.equal(batch["spectrograms"][row], expected["spectrograms"])


def test_a_pickled_dataset_reads_the_same(shards: Path) -> None:
    dataset = ShardDataset(shards, fold=1, side="test")
    item, copy = dataset[1], pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1]["faces"], item["faces"])
    assert len(pickle.dumps(dataset)) < 10_000  # positions of clips, no content


def test_indices_are_those_of_a_sequence(shards: Path) -> None:
    dataset = ShardDataset(shards, fold=1)
    assert dataset[-1]["key"] == dataset[len(dataset) - 1]["key"] == dataset[np.int64(7)]["key"]
    assert dataset[torch.tensor(7)]["key"] == dataset.keys[7]
    for index_out in (8, -9):
        with pytest.raises(IndexError):
            dataset[index_out]
    with pytest.raises(TypeError):
        dataset["anna-fear-0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": "valid"}, "side: found 'valid', expected train, validation, test"),
        ({"windows": 12}, "windows: found 12, expected 16, 8"),
        ({"check": "none"}, "check: found 'none', expected hashes, sizes"),
        ({"face_dtype": torch.float16}, r"face_dtype: found torch\.float16, expected"),
        ({"fold": 9}, "unknown fold '9'; valid are anna, ben, cleo, dora, or 1 to 4"),
        ({"fold_scheme": "random"}, "unknown fold scheme 'random'; valid are loso"),
        ({"label_scheme": "ravdess-9"}, "unknown label scheme 'ravdess-9'; valid are ravdess-7"),
        ({"feature": "stft"}, "found no feature 'stft' in its shards; choose FEATURE= of mfcc"),
        ({"location": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(shards: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ShardDataset(**{"location": shards, "fold": 1, **changes})
    assert "\n" not in str(caught.value)


def test_several_features_and_the_only_one(tmp_path: Path) -> None:
    both = make_folder(tmp_path / "both", features=("logmel", "mfcc"))
    rows = {feature: ShardDataset(both, 1, feature=feature)[0]["spectrograms"].shape[1] for feature in (None, "logmel")}
    assert rows[None] == 13 != rows["logmel"]
    only = make_folder(tmp_path / "only", features=("logmel",))
    assert ShardDataset(only, 1)[0]["spectrograms"].shape[1] == rows["logmel"]


def test_damage_is_found_when_the_dataset_is_made_or_at_the_clip(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards")
    clean = ShardDataset(folder, 1)
    path = folder / f"{clean.speakers[0]}-000.tar"
    data = bytearray(path.read_bytes())
    offset, size = index.member_byte_ranges(path)[clean.keys[0]]["faces.jpg"]
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{path.name}: damaged at clip {clean.keys[0]}: faces\.jpg: not a JPEG"):
        clean[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.data.shard_folder.verified_files", set())
        with pytest.raises(DataError, match=rf"{path.name}: found SHA-256 .*, expected .*; build or fetch it again"):
            ShardDataset(folder, 1)
        assert len(ShardDataset(folder, 1, check="sizes")) == len(clean)


def test_a_side_that_was_not_fetched_is_refused_with_the_command(shards: Path, tmp_path: Path) -> None:
    """Of a folder that was fetched for training, the test side."""
    command = [sys.executable, "-m", "manifests", "fetch", str(shards), str(tmp_path / "part")]
    subprocess.run([*command, "--fold", "anna", "--split", "train"], check=True, capture_output=True)
    assert len(ShardDataset(tmp_path / "part", "anna", "validation")) == 4
    with pytest.raises(DataError, match=r"of 1 test shards of fold anna found 0; fetch the rest: .*fetch.*anna.*test"):
        ShardDataset(tmp_path / "part", 1, "test")


def test_making_it_leaves_no_thread_that_a_fork_would_lose(shards: Path) -> None:
    before = threading.active_count()
    dataset = ShardDataset(shards, fold=1)
    assert len(dataset[0]) == 6
    assert threading.active_count() == before


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, train; print('torch' in sys.modules, sorted(train.__all__), 'ShardDataset' in dir(train))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False ['Predictor', 'ShardDataset'] True\n"
    assert train.Predictor.__module__ == "train.predict"
    with pytest.raises(AttributeError, match="no attribute 'Loader'"):
        train.Loader  # noqa: B018


def test_a_moved_folder_is_named(shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards, tmp_path / "copy")
    dataset = ShardDataset(copy, 1)
    shutil.rmtree(copy)
    with pytest.raises(DataError, match=r"anna-000|ben-000|cleo-000|dora-000"):
        dataset[0]

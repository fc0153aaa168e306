"""Which clips a side of a fold has, and everything that is refused before training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests import index
from manifests.folds import SIDES, FoldError, Side
from manifests.index import ManifestError, SpectrogramSums, dump_receipt, load_receipt
from manifests.index_writer import write_index
from manifests.labels import LabelError, label_scheme
from manifests.schema import Clip, encode
from tests.factories.shards import SPEAKERS, make_folder, make_sample, sign
from train.data import DataError
from train.data.clip_table import ClipMembers, ClipTable, load_clips, members_for
from train.data.fold_data import choose_labels
from train.data.shard_folder import ShardFolder, fold_sides, open_folder, prefetch_shards
from train.fusion import STRATEGIES


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "shards", features=("mfcc", "logmel"))


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be damaged."""
    return shutil.copytree(shards, tmp_path / "shards")


def reads(folder: ShardFolder, strategy: str) -> ClipMembers:
    return members_for(folder.index, STRATEGIES[strategy], "mfcc")


def clips_of(path: Path, fold: str = "anna", side: str = "train", labels: str | None = None) -> ClipTable:
    folder = open_folder(path)
    sides = fold_sides(folder, fold)
    scheme = choose_labels(folder.index, labels, [e for s in SIDES for e in sides[s].clips])
    return load_clips(folder, sides[side], scheme, reads(folder, "cfas"))


def test_a_side_has_all_clips_of_its_speakers_by_shard_and_id(shards: Path) -> None:
    sides = fold_sides(open_folder(shards), "anna")
    found = {side: clips_of(shards, side=side) for side in sides}
    for side, clips in found.items():
        expected = [f"{s}-{e}-{take}" for s in sides[side].subjects for e in ("fear", "joy") for take in (0, 1)]
        assert [key.decode() for key in clips.keys] == expected
        assert clips.labels.tolist() == [0, 0, 1, 1] * len(sides[side].subjects)
        assert [clips.speakers[shard] for shard in clips.shard] == [key.partition("-")[0] for key in expected]
        assert not clips.left_out
    assert sides["test"].subjects == ("anna",)
    assert sum(len(clips) for clips in found.values()) == 4 * len(SPEAKERS)


def test_members_lie_where_the_clips_say(shards: Path) -> None:
    clips = clips_of(shards)
    tar = (shards / clips.shards[clips.shard[-1]]).read_bytes()
    key = clips.keys[-1].decode()
    speaker, emotion, _ = key.split("-")
    sample = make_sample(Clip(clip_id=key, speaker=speaker, emotion=emotion), ("mfcc", "logmel"))
    for suffix, (offset, size) in zip(clips.members.suffixes, clips.byte_ranges[-1].tolist(), strict=True):
        assert tar[offset : offset + size] == encode(sample)[suffix]


def test_a_million_clips_fit(shards: Path) -> None:
    clips = clips_of(shards)
    arrays = (clips.shard, clips.keys, clips.labels, clips.byte_ranges)
    assert sum(array.nbytes for array in arrays) / len(clips) < 100


@pytest.mark.parametrize(
    ("strategy", "members"),
    [
        ("cfas", ("faces.jpg", "mfcc_16.npy")),
        ("rfas", ("faces.jpg", "mfcc_8.npy")),
        ("faces", ("faces.jpg",)),
        ("spectrograms", ("mfcc_16.npy",)),
    ],
)
def test_only_what_a_strategy_needs_is_read(shards: Path, strategy: str, members: tuple[str, ...]) -> None:
    assert members_for(open_folder(shards).index, STRATEGIES[strategy], "mfcc").suffixes == members


def test_a_feature_that_was_not_built_is_refused(shards: Path) -> None:
    dataset = open_folder(shards).index
    with pytest.raises(DataError, match=r"found no feature 'stft' in its shards; choose FEATURE= of mfcc, logmel$"):
        members_for(dataset, STRATEGIES["cfas"], "stft")


def test_clips_of_left_out_sentences_are_on_no_side(tmp_path: Path) -> None:
    sessions = tuple(f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM")
    sentences = ("Ses01F_impro01", "Ses01F_script01_1")
    path = make_folder(tmp_path / "shards", dataset="iemocap", speakers=sessions, takes=2, sentences=sentences)
    write_index(path, open_folder(path).index, [f"{speaker}-000.tar" for speaker in sessions])
    folder = open_folder(path)
    scheme = choose_labels(replace(folder.index, label_schemes=()), None, ("fear", "joy"))
    found = {}
    for name in ("iemocap-5fold", "iemocap-improvised", "iemocap-script-disjoint"):
        sides = fold_sides(folder, "1", name)
        clips = {side: load_clips(folder, sides[side], scheme, reads(folder, "faces")) for side in sides}
        found[name] = {side: (len(each), {key.decode()[-1] for key in each.keys}) for side, each in clips.items()}
    every, improvised = set("01"), set("0")  # takes
    assert found["iemocap-5fold"] == {"train": (24, every), "validation": (8, every), "test": (8, every)}
    assert found["iemocap-improvised"] == {
        "train": (12, improvised),
        "validation": (4, improvised),
        "test": (4, improvised),
    }
    assert found["iemocap-script-disjoint"] == {
        "train": (12, improvised),
        "validation": (4, improvised),
        "test": (8, every),
    }


def test_incomplete_clips_are_used_for_what_they_have(tmp_path: Path) -> None:
    """One without a face and one without sound; of another speaker nothing has sound."""
    path = make_folder(tmp_path / "shards")
    speakers = sorted(open_folder(path).speakers.values())
    for speaker, flags in (("anna", {0: "no_face", 3: "no_sound"}), ("ben", dict.fromkeys(range(4), "no_sound"))):
        place = path / f"receipts/{speaker}-000.json"
        receipt = load_receipt(place)
        rows = list(receipt.rows)
        for i, flag in flags.items():
            rows[i] = replace(rows[i], status="flagged", flags=(flag,))
        statistics = receipt.statistics if speaker == "anna" else {}
        place.write_bytes(dump_receipt(replace(receipt, rows=tuple(rows), statistics=statistics)))
    write_index(path, open_folder(path).index, [f"{speaker}-000.tar" for speaker in speakers])
    folder = open_folder(path)
    side = Side(shards=("anna-000.tar", "ben-000.tar"), subjects=("anna", "ben"), clips={"fear": 4, "joy": 4})
    clips = load_clips(folder, side, choose_labels(folder.index, None, ("fear", "joy")), reads(folder, "spectrograms"))
    assert (len(clips), clips.incomplete) == (3, 5)
    assert [key.decode() for key in clips.keys] == ["anna-fear-0", "anna-fear-1", "anna-joy-0"]
    assert clips.missing.tolist() == [2, 0, 0]
    both = load_clips(folder, side, choose_labels(folder.index, None, ("fear", "joy")), reads(folder, "cfas"))
    assert (len(both), both.incomplete) == (8, 0)
    assert both.missing.tolist() == [2, 0, 0, 1, 1, 1, 1, 1]
    assert both.statistics == clips.statistics


def test_statistics_are_of_the_training_shards_alone(shards: Path) -> None:
    folder = open_folder(shards)
    side = fold_sides(folder, "anna")["train"]
    scheme = choose_labels(folder.index, None, list(side.clips))
    sums = load_clips(folder, side, scheme, reads(folder, "rfas")).statistics
    assert sums is not None
    names = [(s, e, take) for s in side.subjects for e in ("fear", "joy") for take in (0, 1)]
    samples = [make_sample(Clip(clip_id=f"{s}-{e}-{t}", speaker=s, emotion=e), ("mfcc", "logmel")) for s, e, t in names]
    expected = SpectrogramSums.of(np.concatenate([sample.spectrograms["mfcc_8"] for sample in samples]))
    assert sums.count == expected.count
    np.testing.assert_allclose(sums.total, expected.total)
    np.testing.assert_allclose(sums.squares, expected.squares)
    assert load_clips(folder, side, scheme, reads(folder, "faces")).statistics is None


def test_an_emotion_that_the_scheme_does_not_know_is_refused(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "crema", dataset="crema-d", emotions=("ANG", "XXX"), takes=1)
    with pytest.raises(DataError, match=r"^label scheme crema-d-6: found 'XXX' \(.*clips\); expected only ANG, DIS"):
        clips_of(path, labels="crema-d-6")


def test_an_emotion_left_out_on_purpose_is_counted(tmp_path: Path) -> None:
    speakers = ("Ses01F", "Ses02F", "Ses03F")
    path = make_folder(tmp_path / "ie", dataset="iemocap", speakers=speakers, emotions=("ang", "exc", "fru"), takes=1)
    clips = clips_of(path, fold="Ses01F", side="test", labels="iemocap-4")
    assert [key.decode() for key in clips.keys] == ["Ses01F-ang-0", "Ses01F-exc-0"]
    assert clips.labels.tolist() == [0, 1]
    assert clips.left_out == {"fru": 1}


def test_label_schemes_are_chosen_by_name_else_by_corpus(shards: Path, tmp_path: Path) -> None:
    dataset = open_folder(shards).index
    assert choose_labels(dataset, None, ["joy", "fear"]).classes == ("fear", "joy")
    own = choose_labels(dataset, "crema-d-6", ["Joy", "fear"])
    assert (own.class_index("Joy"), own.class_index("fear")) == (3, 2)
    assert own.classes == label_scheme("crema-d-6").classes
    with pytest.raises(
        LabelError, match="label scheme crema-d-6: has no class for boredom, glee of folder; its classes"
    ):
        choose_labels(dataset, "crema-d-6", ["joy", "glee", "boredom"])
    with pytest.raises(LabelError, match="unknown label scheme 'x'; valid are ravdess-7"):
        choose_labels(dataset, "x", [])
    known = make_folder(tmp_path / "c", dataset="crema-d", emotions=("ANG",), takes=1, label_schemes=("crema-d-6",))
    assert choose_labels(open_folder(known).index, None, []) is label_scheme("crema-d-6")
    with pytest.raises(DataError, match="label scheme ravdess-7 is for ravdess, not crema-d; valid are crema-d-6"):
        choose_labels(open_folder(known).index, "ravdess-7", ["ANG"])


def test_unknown_folds_and_schemes_are_refused_with_the_valid_ones(shards: Path) -> None:
    folder = open_folder(shards)
    with pytest.raises(DataError, match=r"loso: unknown fold '7'; valid are anna, ben, cleo, dora$"):
        fold_sides(folder, "7")
    with pytest.raises(FoldError, match=r"unknown fold scheme 'x'; valid are loso$"):
        fold_sides(folder, "anna", scheme="x")
    with pytest.raises(FoldError, match=r"unknown fold scheme '\.\./dataset'"):
        fold_sides(folder, "anna", scheme="../dataset")


def test_a_fold_that_leaks_a_speaker_is_refused(copy: Path) -> None:
    path = copy / "folds" / "loso.json"
    folds = json.loads(path.read_text())
    train, test = folds["folds"]["anna"]["train"], folds["folds"]["anna"]["test"]
    train["subjects"] += test["subjects"]
    train["shards"] = sorted(train["shards"] + test["shards"])
    path.write_text(json.dumps(folds))
    sign(copy)
    with pytest.raises(DataError, match=r"loso\.json: found .*loso\.json\.folds\.anna: speaker anna on two sides"):
        fold_sides(open_folder(copy), "ben")


def test_a_fold_file_that_was_changed_is_refused(copy: Path) -> None:
    path = copy / "folds" / "loso.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"loso\.json: found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; build"):
        fold_sides(open_folder(copy), "anna")


def test_a_fold_that_lists_other_clips_is_refused(copy: Path) -> None:
    path = copy / "folds" / "loso.json"
    folds = json.loads(path.read_text())
    folds["folds"]["anna"]["test"]["clips"] = {"fear": 2, "joy": 3}
    path.write_text(json.dumps(folds))
    sign(copy)
    with pytest.raises(DataError, match=r"found clips {'fear': 2, 'joy': 2}, expected {'fear': 2, 'joy': 3}"):
        clips_of(copy, side="test")


def test_a_side_without_built_speakers_is_refused(copy: Path) -> None:
    folder = open_folder(copy)
    side = Side(shards=(), subjects=(), clips={})
    with pytest.raises(DataError, match="found no clip with a class; speakers are none that was built"):
        load_clips(folder, side, label_scheme("crema-d-6"), reads(folder, "faces"))


def test_folders_that_are_not_as_promised_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"dataset\.json: missing"):
        open_folder(tmp_path)
    (copy / "ben-001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"ben-001\.tar: found a file the index does not know"):
        open_folder(copy)
    (copy / "ben-001.tar").unlink()
    whole = (copy / "ben-000.tar").read_bytes()
    (copy / "ben-000.tar").write_bytes(whole[:10240])
    with pytest.raises(DataError, match=rf"ben-000\.tar: found 10240 bytes, expected {len(whole)}; build or fetch"):
        open_folder(copy)
    (copy / "ben-000.tar").unlink()
    (copy / "anna-000.tar").unlink()
    with pytest.raises(DataError, match=r"anna-000\.tar: found nothing, expected a file \(and 1 more problem"):
        open_folder(copy)


def test_a_shard_that_was_changed_is_named_before_anything_is_decoded(copy: Path) -> None:
    folder = open_folder(copy)
    tar = bytearray((copy / "cleo-000.tar").read_bytes())
    tar[len(tar) // 2] ^= 1
    (copy / "cleo-000.tar").write_bytes(tar)
    names = [shard.name for shard in folder.index.shards]
    prefetch_shards(folder, names[:2]).wait(names[:2])
    prefetch_shards(folder, names, check="sizes").wait(names)
    with pytest.raises(DataError, match=r"cleo-000\.tar: found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        prefetch_shards(folder, names).wait(names)


def test_a_shard_is_hashed_once_a_process(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, hashed = open_folder(copy), []
    real = index.file_sha256
    monkeypatch.setattr(index, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    names = [f"{speaker}-000.tar" for speaker in SPEAKERS]
    for _ in range(2):
        prefetch_shards(folder, names).wait(names)
    assert sorted(hashed) == names


def test_a_receipt_that_was_changed_is_refused(copy: Path) -> None:
    path = copy / "receipts" / "ben-000.json"
    path.write_text(path.read_text().replace("fear", "rage"))
    with pytest.raises(DataError, match=r"ben-000\.json: found SHA-256"):
        clips_of(copy, fold="ben", side="test")


def test_a_receipt_without_statistics_is_refused(copy: Path) -> None:
    path, described = copy / "receipts" / "ben-000.json", copy / "dataset.json"
    receipt, before = json.loads(path.read_text()), index.file_sha256(path)
    path.write_text(json.dumps(receipt | {"statistics": {}}))
    described.write_text(described.read_text().replace(before, index.file_sha256(path)))
    sign(copy)
    with pytest.raises(DataError, match=r"receipts/ben-000\.json: found .*found statistics of nothing, expected"):
        clips_of(copy, fold="ben", side="test")


def test_an_unfinished_build_is_refused(copy: Path) -> None:
    path = copy / "dataset.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(DataError, match=r"dataset\.json: found an unfinished build"):
        open_folder(copy)


def test_a_folder_knows_where_it_is(shards: Path) -> None:
    names = frozenset(f"{speaker}-000.tar" for speaker in SPEAKERS)
    assert open_folder(str(shards)) == ShardFolder(path=shards, index=index.load_dataset(shards), available=names)

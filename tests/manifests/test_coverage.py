"""How many of a corpus's clips a side of a fold has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifests import coverage, folds, index
from manifests.coverage import Coverage
from manifests.folds import FoldError
from manifests.index_writer import write_index
from tests.factories.shards import make_folder


def fold_coverage(folder: Path, scheme: str, fold: str, **options):
    """Coverage of a fold of the folder's own scheme."""
    speakers = {shard.name: shard.speaker for shard in index.load_dataset(folder).shards}
    file = folds.load_fold_file(folder / index.FOLDS / f"{scheme}.json", speakers)
    return coverage.fold_coverage(folder, file, fold, **options)


SPEAKERS = tuple(f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM")


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two turns of each class in an improvised and a scripted dialogue of each speaker; in session 1 some are lost.

    Of Ses01M nothing was built; Ses01F lost an improvised and a scripted turn, and one of hers has no sound.
    """
    folder = make_folder(
        tmp_path_factory.mktemp("iemocap") / "shards",
        dataset="iemocap",
        speakers=SPEAKERS,
        emotions=("ang", "fru", "hap"),
        takes=4,
        sentences=("Ses01F_impro01", "Ses01F_script01_1"),
        label_schemes=("iemocap-4",),
    )
    for speaker in ("Ses01F", "Ses01M"):
        path = folder / f"receipts/{speaker}-000.json"
        receipt = index.load_receipt(path)
        rows = list(receipt.rows)
        lost = range(len(rows)) if speaker == "Ses01M" else (0, 1)
        for i in lost:
            reason = "no_face" if i else "truncated"
            rows[i] = replace(rows[i], status="dropped", shard=None, reason=reason)
        if speaker == "Ses01F":
            rows[2] = replace(rows[2], status="flagged", flags=("no_sound", "silent"))
        kept = {row.clip_id for row in rows if row.shard}
        members = {clip: places for clip, places in receipt.members.items() if clip in kept}
        receipt = replace(receipt, rows=tuple(rows), members=members, sha256=receipt.sha256 if kept else None)
        path.write_bytes(index.dump_receipt(receipt))
    write_index(folder, index.load_dataset(folder), [f"{speaker}-000.tar" for speaker in SPEAKERS])
    return folder


def test_dropped_clips_are_expected_on_their_side(iemocap: Path) -> None:
    found = fold_coverage(iemocap, "iemocap-5fold", "1")
    reasons = {"no_face": 1 + 11, "truncated": 1 + 1}
    assert found["test"] == Coverage(built=10, expected=24, incomplete=1, reasons=reasons)
    assert found["train"] == Coverage(built=72, expected=72, incomplete=0, reasons={})
    assert found["validation"].expected == 24


def test_the_tests_of_all_folds_are_the_corpus(iemocap: Path) -> None:
    each = [fold_coverage(iemocap, "iemocap-5fold", str(fold))["test"] for fold in range(1, 6)]
    assert (sum(side.built for side in each), sum(side.expected for side in each)) == (106, 120)
    assert index.load_dataset(iemocap).counts == {"built": 105, "dropped": 14, "flagged": 1}


def test_only_clips_with_a_class_count(iemocap: Path) -> None:
    found = fold_coverage(iemocap, "iemocap-5fold", "1", emotions=("ang", "hap"))["test"]
    assert (found.built, found.expected) == (6, 16)


def test_clips_that_a_scheme_leaves_out_are_not_expected(iemocap: Path) -> None:
    """Of the improvised clips one was lost; the scripted one that was lost is not missed."""
    improvised = fold_coverage(iemocap, "iemocap-improvised", "1")
    assert (improvised["test"].built, improvised["test"].expected) == (5, 6 + 6)
    assert (improvised["train"].built, improvised["train"].expected) == (36, 36)
    disjoint = fold_coverage(iemocap, "iemocap-script-disjoint", "1")
    assert (disjoint["test"].expected, disjoint["train"].expected) == (24, 36)


def test_an_unknown_fold_is_refused(iemocap: Path) -> None:
    with pytest.raises(FoldError, match=r"iemocap-5fold: unknown fold '9'; valid are 1, 2, 3, 4, 5"):
        fold_coverage(iemocap, "iemocap-5fold", "9")


def test_generated_folds_count_built_speakers(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards")
    assert folds.LOSO in index.load_dataset(folder).fold_schemes
    found = fold_coverage(folder, folds.LOSO, "anna")
    assert found["test"] == Coverage(built=4, expected=4, incomplete=0, reasons={})

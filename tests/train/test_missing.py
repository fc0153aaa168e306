"""What is missing is drawn for each clip, replaced by the training mean, and costs a classifier what it should."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories import finished_runs
from tests.factories.shards import SPEAKERS, make_folder
from tests.factories.small_trainings import SMALL
from train import cli, runs
from train.data.augment import IMAGENET_MEAN, Augmentation
from train.data.batches import PairBatch
from train.data.missing import CONDITIONS, FACES, SOUND, Missing
from train.data.transforms import ClipTransform, NormalizationStats
from train.fusion import strategy_named
from train.models.videomae import ENCODERS
from train.report import write_report
from train.runs import MISSING_FILE, EvaluationError, read_result, read_summaries

KEYS = tuple(f"clip-{number}" for number in range(40))
NORMALIZATION = NormalizationStats(mean=(1.0,) * 13, std=(2.0,) * 13)


def batch(keys: tuple[str, ...]) -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    return PairBatch(
        keys=keys,
        labels=torch.zeros(len(keys), dtype=torch.int64),
        speakers=keys,
        filmstrips=torch.randint(1, 255, (len(keys), 224, 3584, 3), generator=generator, dtype=torch.uint8),
        spectrograms=torch.randn(len(keys), 16, 13, 224, generator=generator).half() + 3,
    )


def transform(**changes: object) -> ClipTransform:
    strategy = strategy_named("cfas")
    return ClipTransform(strategy=strategy, classes=2, normalization=NORMALIZATION, **changes)


@pytest.mark.parametrize("modality", [SOUND, FACES])
def test_smaller_shares_are_parts_of_larger_ones(modality: str) -> None:
    def mask(share: float) -> np.ndarray:
        faces, sound = Missing(modality, share).absent(KEYS, 16, 8)
        assert (faces.shape[1], sound.shape[1]) == (16, 9)
        chosen, other = (sound, faces) if modality == SOUND else (faces, sound)
        assert not other.any()
        assert (chosen.sum(axis=1) == round(share * chosen.shape[1])).all()
        return chosen

    quarter, half, three, whole = map(mask, (0.25, 0.5, 0.75, 1.0))
    assert (quarter <= half).all() and (half <= three).all() and whole.all()
    assert len({tuple(row) for row in half.tolist()}) > 20  # drawn for each clip
    assert 0.3 < half.mean(axis=0).min() < half.mean(axis=0).max() < 0.7  # and no place is preferred
    alone = Missing(modality, 0.5).absent(KEYS[7:8], 16, 8)
    assert (alone.sound if modality == SOUND else alone.faces).tolist() == [half[7].tolist()]


@pytest.mark.parametrize("windows", [8, 16])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_sound_that_is_missing_is_in_no_window(share: float, windows: int) -> None:
    """Of windows that are dropped one by one, their neighbours would still have most of the sound."""
    halves = Missing(SOUND, share).absent(KEYS, 16, windows).window_halves
    assert (halves[:, :-1, 1] == halves[:, 1:, 0]).all()  # the piece that two windows have in common
    pieces = np.concatenate([halves[:, :, 0], halves[:, -1:, 1]], axis=1)
    assert abs(pieces.mean() - share) <= 0.5 / (windows + 1) + 1e-9


@pytest.mark.parametrize(("modality", "share"), [("smell", 0.5), (SOUND, 0.0), (FACES, 1.5)])
def test_no_other_condition(modality: str, share: float) -> None:
    with pytest.raises(ValueError, match="expected sound or faces, above 0 to 1"):
        Missing(modality, share)


def test_what_is_missing_is_the_training_mean_and_the_rest_is_untouched() -> None:
    """In cfas the upper half of a frame is a face, the lower half its spectrogram."""
    clips, whole = batch(KEYS[:2]), transform().evaluation_input(batch(KEYS[:2])).inputs
    for modality, rows, others in ((SOUND, slice(112, 224), slice(0, 112)), (FACES, slice(0, 112), slice(112, 224))):
        found = transform().evaluation_input(clips, missing=Missing(modality, 0.5)).inputs
        masks = Missing(modality, 0.5).absent(clips.keys, 16, 16)
        halves = masks.window_halves if modality == SOUND else np.repeat(masks.faces[..., None], 2, axis=-1)
        absent = torch.from_numpy(halves)
        parts, complete = (
            video[:, :, :, rows].unflatten(-1, (2, 112)).permute(0, 2, 4, 1, 3, 5) for video in (found, whole)
        )  # [clips, frames, halves, 3, rows, 112]
        assert parts[absent].abs().max() < 1e-5
        assert torch.equal(parts[~absent], complete[~absent])
        assert torch.equal(found[:, :, :, others], whole[:, :, :, others])
        assert torch.equal(transform().evaluation_input(clips).inputs, whole)  # the batch itself is not changed


def test_missing_faces_are_mid_grey_for_an_encoder_of_pixels_from_0_to_1() -> None:
    found = transform(input_range="unit").evaluation_input(batch(KEYS[:1]), missing=Missing(FACES, 1.0)).inputs
    assert found[0, :, 0, 50, 50].tolist() == pytest.approx(IMAGENET_MEAN)


def test_a_training_may_drop_modalities_of_some_clips() -> None:
    settings = Augmentation(modality_dropout=0.5)
    found = transform(augmentation=settings).training_input(batch(KEYS), 1).inputs
    faces, sound = found[:, :, :, :112].flatten(1), found[:, :, :, 112:].flatten(1)
    gone = torch.stack([faces.abs().amax(1) < 1e-5, sound.abs().amax(1) < 1e-5], 1)
    assert not gone.all(1).any()
    assert 4 <= int(gone[:, 0].sum()) <= 17 and 4 <= int(gone[:, 1].sum()) <= 17


@pytest.mark.parametrize("recipe", ["tiny", "finetune"])
def test_every_finished_run_is_tested_without_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(ENCODERS, "tiny", SMALL)
    shards = make_folder(tmp_path / "shards" / "folder")
    options = [f"--shards={shards}", f"--runs={tmp_path / 'runs'}", "--encoder=tiny", "--epochs=2", "--batch=4"]
    assert cli.run(["train", *options, f"--recipe={recipe}", "--fold=1"]) == 0
    home = tmp_path / "runs" / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"
    result = read_result(home)
    assert tuple(sorted(result.missing)) == tuple(sorted(CONDITIONS))
    rows = list(csv.DictReader((home / MISSING_FILE).read_text().splitlines()))
    assert len(rows) == len(CONDITIONS) * result.scores.clips
    # The same by hand: a clip whose every part is missing looks like any other one of its class.
    without_sound = {row["predicted"] for row in rows if (row["missing"], row["share"]) == ("sound", "1.0")}
    assert without_sound <= {*result.run.protocol.classes}
    capsys.readouterr()


def test_scores_of_conditions_are_read_back_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    written = finished_runs.finish(tmp_path)
    home = runs.run_folder(tmp_path, "demo", "cfas", "1")
    assert read_result(home) == written
    worst = written.missing[Missing(SOUND, 1.0)]
    assert worst.uar == pytest.approx(1 / 4)  # always the first class
    assert worst.uar < written.missing[Missing(SOUND, 0.5)].uar < written.scores.uar
    path = home / MISSING_FILE
    path.write_bytes(path.read_bytes().replace(b"sound", b"faces", 1))
    with pytest.raises(EvaluationError, match=r"missing\.csv: found other predictions"):
        read_result(home)
    path.unlink()
    with pytest.raises(EvaluationError, match=r"missing\.csv: not found"):
        read_result(home)


def test_the_report_shows_how_scores_fall(tmp_path: Path) -> None:
    for fold in finished_runs.FOLDS:
        finished_runs.finish(tmp_path / "runs", fold=fold)
    (summary,) = read_summaries(tmp_path / "runs")
    text = write_report(tmp_path / "runs", tmp_path / "out")[0].read_text()
    part = text.split("### UAR where a part of a modality is missing", 1)[1]
    header, _, row = part.strip().splitlines()[:3]
    assert header.split(" | ")[2:4] == ["25 % of faces", "50 % of faces"]
    assert f"{100 * summary.missing_uar[Missing(FACES, 0.25)]:.2f}" in row
    assert (tmp_path / "out" / "figures" / "demo-missing.png").is_file()


def test_a_clip_that_was_built_without_a_modality_is_as_one_that_lost_it() -> None:
    """And a condition of the test adds to what a recording lacks."""
    given = batch(KEYS[:3])
    recorded = replace(given, missing=(0, 1, 2))
    found = transform().evaluation_input(recorded).inputs
    for row, missing in enumerate((None, Missing(SOUND, 1.0), Missing(FACES, 1.0))):
        assert torch.equal(found[row], transform().evaluation_input(given, missing=missing).inputs[row])
    nothing = transform().evaluation_input(recorded, missing=Missing(FACES, 1.0)).inputs[1]
    assert nothing.abs().max() < 1e-5
    trained = transform(augmentation=Augmentation()).training_input(recorded, 1).inputs
    assert torch.equal(trained, found)
    assert transform().evaluation_input(recorded[1:]).inputs.equal(found[1:])

"""A run is scored once, damaged or changed files are refused, and summaries name the folds that are missing."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.factories import finished_runs
from train import metrics, runs
from train.runs import (
    EpochMetrics,
    finish_run,
    is_finished,
    read_log,
    read_result,
    read_summaries,
    run_folder,
    summarize_folds,
)
from train.scoring import EvaluationError, Predictions, parse_predictions, score_predictions


def test_a_finished_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    result = finished_runs.finish(tmp_path)
    folder = tmp_path / "demo" / "cfas" / "fold-1"
    assert folder == run_folder(tmp_path, "demo", "cfas", "1")
    assert read_result(folder) == result
    assert sorted(path.name for path in folder.iterdir()) == [
        "log.jsonl",
        "missing.csv",
        "predictions.csv",
        "result.json",
    ]
    data = (folder / "predictions.csv").read_bytes()
    again = parse_predictions(data, finished_runs.CLASSES, "predictions.csv")
    assert score_predictions(again, finished_runs.CLASSES) == result.scores


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished_runs.finish(tmp_path / name)
    for file in ("predictions.csv", "result.json"):
        one, other = (tmp_path / name / "demo/cfas/fold-1" / file for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_a_test_fold_is_read_once(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    with pytest.raises(EvaluationError, match="this run was already tested"):
        finished_runs.finish(tmp_path)


def test_a_result_without_all_of_its_fold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    found = finished_runs.predictions(("S01", "S02"), 0.8)
    cut = Predictions(
        clips=found.clips[1:],
        speakers=found.speakers[1:],
        labels=found.labels[1:],
        probabilities=found.probabilities[1:],
    )
    with pytest.raises(EvaluationError, match=r"fold-1, test fold 1: of 32 clips found 1 missing \(S01_000\)"):
        finish_run(
            tmp_path,
            finished_runs.run(),
            cut,
            finished_runs.expected_clips(found),
            finished_runs.missing(found),
            len(found),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_skips_finished_runs_of_the_same_protocol_and_nothing_else(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "demo", "cfas", "1")
    assert not is_finished(folder, finished_runs.protocol())
    finished_runs.finish(tmp_path)
    assert is_finished(folder, finished_runs.protocol())
    with pytest.raises(EvaluationError, match=r"with another protocol \(recipe: finetune -> linear-probe\); remove it"):
        is_finished(folder, finished_runs.protocol(recipe="linear-probe"))


def test_a_folder_without_a_result_is_unfinished(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    (tmp_path / "demo/cfas/fold-1/result.json").unlink()
    assert not is_finished(tmp_path / "demo/cfas/fold-1", finished_runs.protocol())
    assert read_summaries(tmp_path) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": "9"}, "found fold 9, expected one of 1, 2, 3"),
        ({"epoch": 0}, "found selected epoch 0, expected 1 to 5"),
        ({"epoch": 6}, "found selected epoch 6"),
        ({"strategy": "../cfas"}, "found name '../cfas'"),
        ({"dataset": ""}, "found name ''"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        finished_runs.run(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("changes", [{"classes": ()}, {"classes": ("a", "a")}, {"folds": ()}, {"folds": ("1", "1")}])
def test_a_protocol_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="expected"):
        finished_runs.protocol(**changes)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_predictions_that_were_changed_are_refused(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    path = tmp_path / "demo/cfas/fold-1/predictions.csv"
    text = path.read_bytes()
    path.write_bytes(text[: text.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(EvaluationError, match=r"predictions\.csv: found other predictions than result\.json"):
        read_summaries(tmp_path)
    edit(path.with_name("result.json"), predictions_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(
        EvaluationError, match=r"predictions\.csv: found 31 clips that are not the test fold of result\.json"
    ):
        read_summaries(tmp_path)
    path.unlink()
    with pytest.raises(EvaluationError, match=r"predictions\.csv: not found"):
        read_summaries(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"result\.json: not JSON"),
        ("[]", r"result\.json: found no result of version 4"),
        ('{"result_version": 1}', r"result\.json: found no result of version 4"),
        ('{"result_version": 4}', r"result\.json: found no"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path: Path, content: str, message: str) -> None:
    finished_runs.finish(tmp_path)
    (tmp_path / "demo/cfas/fold-1/result.json").write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_summaries(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("result",), {"uar": 0.99}),
        (("uar",), 0.99),
        (("clips",), 33),
        (("clips",), -1),
        (("clips",), "all"),
        (("clips",), None),
        (("clips_sha256",), "0" * 64),
        (("predictions_sha256",), "0" * 64),
        (("predictions_sha256",), 0),
        (("run", "epoch"), 2.5),
        (("run", "epoch"), 6),
        (("run", "fold"), "9"),
        (("run", "protocol", "classes"), ["a", "b"]),
        (("run", "protocol", "classes"), []),
        (("run", "protocol", "folds"), {}),
        (("run", "protocol"), None),
    ],
)
def test_an_edited_result_is_refused(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    finished_runs.finish(tmp_path)
    path = tmp_path / "demo/cfas/fold-1/result.json"
    edited = json.loads(path.read_text())
    *parents, last = place
    target = edited
    for key in parents:
        target = target[key]
    target[last] = value
    path.write_text(json.dumps(edited))
    with pytest.raises(EvaluationError, match=r"fold-1/(result\.json|predictions\.csv)") as caught:
        read_result(path.parent)
    assert "\n" not in str(caught.value)


def test_predictions_for_other_clips_are_refused_even_with_their_hash(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    path = tmp_path / "demo/cfas/fold-1/predictions.csv"
    path.write_bytes(path.read_bytes().replace(b"S01_000,", b"S01_099,"))
    edit(path.with_name("result.json"), predictions_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(EvaluationError, match=r"predictions\.csv: found 32 clips that are not the test fold"):
        read_result(path.parent)


def test_a_result_holds_no_scores(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    value = json.loads((tmp_path / "demo/cfas/fold-1/result.json").read_text())
    assert value.keys() == {
        "result_version",
        "run",
        "clips",
        "corpus_clips",
        "clips_sha256",
        "predictions_sha256",
        "missing_sha256",
    }


def test_a_run_in_another_place_is_refused(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path)
    shutil.copytree(tmp_path / "demo/cfas/fold-1", tmp_path / "demo/fslf/fold-1")
    with pytest.raises(EvaluationError, match=r"fslf/fold-1/result\.json: found the run of .*cfas/fold-1"):
        read_summaries(tmp_path)


def test_folds_are_summarized_and_missing_ones_listed(tmp_path: Path) -> None:
    results = [finished_runs.finish(tmp_path, strategy="fslf", fold=fold) for fold in ("3", "1")]
    finished_runs.finish(tmp_path, strategy="cfas", fold="2")
    cfas, fslf = read_summaries(tmp_path)
    assert (cfas.run.strategy, fslf.run.strategy) == ("cfas", "fslf")
    assert [result.run.fold for result in fslf.results] == ["1", "3"]
    assert (fslf.missing, cfas.missing) == (("2",), ("1", "3"))

    wars = [result.scores.war for result in results]
    assert fslf.war.mean == pytest.approx(np.mean(wars)) and fslf.war.std == pytest.approx(np.std(wars, ddof=1))
    assert cfas.uar.std is None
    counts = np.sum([result.scores.confusion for result in results], axis=0)
    np.testing.assert_array_equal(fslf.pooled.confusion, counts)
    assert (fslf.pooled.uar, fslf.pooled.clips) == (metrics.uar(counts), 64)
    assert fslf.pooled.speakers == ("S01", "S02", "S05", "S06")


def test_runs_with_different_protocols_are_not_averaged(tmp_path: Path) -> None:
    finished_runs.finish(tmp_path, fold="1")
    finished_runs.finish(tmp_path, fold="2", protocol=finished_runs.protocol(settings="1" * 64, recipe="linear-probe"))
    assert [summary.name for summary in read_summaries(tmp_path)] == ["cfas (finetune)", "cfas (linear-probe)"]
    assert [[one.run.fold for one in summary.results] for summary in read_summaries(tmp_path)] == [["1"], ["2"]]
    finished_runs.finish(tmp_path, fold="3", protocol=finished_runs.protocol(settings="2" * 64))
    names = [summary.name for summary in read_summaries(tmp_path)]
    assert names == ["cfas (finetune, 0000000)", "cfas (linear-probe, 1111111)", "cfas (finetune, 2222222)"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"feature": "logmel", "settings": "1" * 64}, ["cfas (mfcc)", "cfas (logmel)"]),
        ({"folds": ("1", "2"), "settings": "1" * 64}, ["cfas (3 folds)", "cfas (2 folds)"]),
        ({"weights": "lab/vit"}, ["cfas (no weights)", "cfas (lab/vit)"]),
        ({"settings": "1" * 64}, ["cfas (0000000)", "cfas (1111111)"]),
    ],
)
def test_variants_are_named_by_what_differs(tmp_path: Path, changes: dict[str, object], names: list[str]) -> None:
    finished_runs.finish(tmp_path, fold="1")
    finished_runs.finish(tmp_path, fold="2", protocol=finished_runs.protocol(**changes))
    assert [summary.name for summary in read_summaries(tmp_path)] == names


def test_folds_with_different_protocols_are_not_summarized(tmp_path: Path) -> None:
    first = finished_runs.finish(tmp_path, fold="1")
    second = finished_runs.finish(tmp_path, fold="2", protocol=finished_runs.protocol(recipe="tiny", settings="1" * 64))
    message = r"demo, cfas: folds 1 and 2 differ \(recipe: finetune -> tiny\); expected runs with the same protocol"
    with pytest.raises(EvaluationError, match=message):
        summarize_folds([first, second])


def test_a_speaker_tested_twice_is_refused(tmp_path: Path) -> None:
    first = finished_runs.finish(tmp_path)
    second = replace(first, run=replace(first.run, fold="2"))
    with pytest.raises(EvaluationError, match="demo, cfas: speaker S01 is tested in folds 1 and 2; expected each"):
        summarize_folds([first, second])


def test_a_folder_that_is_empty_or_not_there_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert read_summaries(tmp_path) == read_summaries(tmp_path / "none") == ()


def line(epoch: float, **more: float) -> str:
    return json.dumps({"epoch": epoch, "train_loss": 1.5, "validation_loss": 1, "validation_uar": 0.5, **more}) + "\n"


def test_a_log_gives_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    steps = json.dumps({"step": 4, "loss": 0.3}) + "\n"
    # Epoch 2 was done again after a kill, and the last line was never finished.
    path.write_text(line(1) + steps + line(2) + line(2, train_loss=0.25, seconds=3) + line(3)[:-9])
    expected = EpochMetrics(epoch=1, train_loss=1.5, validation_loss=1.0, validation_uar=0.5)
    assert read_log(path) == (expected, replace(expected, epoch=2, train_loss=0.25))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line(1) + '{"epo\n' + line(2), r"log\.jsonl:2: not JSON"),
        (line(1.5), r"log\.jsonl:1\.epoch: found 1\.5"),
        (line(1, train_loss=float("nan")), r"log\.jsonl:1\.train_loss: found nan"),
        ('{"epoch": 1, "validation_uar": 0.5}\n', r"log\.jsonl:1: found no"),
    ],
)
def test_a_log_with_a_damaged_line_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / runs.LOG_FILE
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_log(path)

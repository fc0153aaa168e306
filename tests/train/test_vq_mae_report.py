"""The tables of VQ-MAE-AV's paper in the report: which of our runs stand beside which row, and what marks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from train import scoring
from train.config import SELECTIONS
from train.report.vq_mae import ROWS, vq_mae_section
from train.runs import Run, RunProtocol, RunResult, RunSummary, summarize_folds

EIGHT = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
SIX = ("anger", "disgust", "fear", "happy", "neutral", "sad")
CLASSES = {"ravdess": EIGHT, "crema-d": SIX}
BEST = "vq-mae-av: depth 12, fusion saf-saf, head query2emo, losses both, tuned"


def summary_of(dataset: str, encoder: str = BEST, **protocol: object) -> RunSummary:
    """A run on one of two folds, all of whose clips were recognized."""
    classes = CLASSES.get(dataset, SIX)
    known = RunProtocol(
        label_scheme="all",
        classes=classes,
        fold_scheme="two",
        folds=("1", "2"),
        selection=SELECTIONS["validation"],
        recipe="vq-mae-av",
        encoder=encoder,
        weights=None,
        lineage="",
        supervision="self-supervised",
        feature="",
        build="",
        precision="float32",
        settings="",
    )
    known = replace(known, **protocol)
    labels = np.arange(len(known.classes))
    predictions = scoring.Predictions(
        clips=tuple(map(str, labels)),
        speakers=("anna",) * len(labels),
        labels=labels,
        probabilities=np.eye(len(labels)),
    )
    scores = scoring.score_predictions(predictions, known.classes)
    run = Run(
        dataset=dataset,
        strategy="vq-mae-av",
        fold="1",
        seed=0,
        protocol=known,
        epoch=1,
        epochs=100,
        training_clips=10,
    )
    return summarize_folds([RunResult(run=run, scores=scores, corpus_clips=len(labels), missing={})])


def cells(table: str, *summaries: RunSummary) -> list[tuple[str, dict[str, str]]]:
    """Our cells of a table: corpus of the row, and column -> cell, of rows that have any."""
    section = vq_mae_section(summaries)
    (found,) = [each for each in section.tables if each.title.startswith(f"Table {table}:")]
    ours = {column: place for place, column in enumerate(found.columns) if column.startswith("ours")}
    rows = [
        (row.cells[1], {c: row.cells[place] for c, place in ours.items() if row.cells[place]}) for row in found.rows
    ]
    return [(corpus, filled) for corpus, filled in rows if filled]


def test_scores_on_a_corpus_of_the_paper_stand_in_its_rows_only() -> None:
    ours = [summary_of(corpus) for corpus in ("crema-d", "demo", "ravdess")]
    scores = "100.00 / 100.00 (vq-mae-av, 1 of 2 folds)"
    columns = {corpus: f"ours, {corpus}: accuracy / F1" for corpus in ("crema-d", "demo", "ravdess")}
    assert cells("1", *ours) == [
        ("ravdess", {columns["demo"]: scores, columns["ravdess"]: scores}),
        ("crema-d", {columns["crema-d"]: scores, columns["demo"]: scores}),
    ]
    assert cells("4", ours[0]) == []
    assert cells("4", ours[2]) == [("ravdess", {columns["ravdess"]: scores})]


@pytest.mark.parametrize(
    ("corpus", "encoder", "protocol", "marks"),
    [
        ("ravdess", BEST, {"classes": SIX}, "6 classes, "),
        ("crema-d", BEST, {"classes": SIX}, ""),
        ("demo", BEST, {"classes": EIGHT}, ""),
        ("ravdess", BEST, {"selection": SELECTIONS["last"]}, "last epoch, "),
        ("ravdess", BEST, {"selection": SELECTIONS["refit"]}, ""),
        ("ravdess", BEST, {"shared_speakers": True}, "speakers in training too, "),
        ("ravdess", BEST.replace("both", "both (decoded 5 %)"), {}, "decoded 5 %, "),
        ("ravdess", f"{BEST} (cross-entropy)", {}, "cross-entropy, "),
    ],
)
def test_a_cell_names_what_differs_from_the_paper(
    corpus: str, encoder: str, protocol: dict[str, object], marks: str
) -> None:
    ((_, found), *_) = cells("1", summary_of(corpus, encoder, **protocol))
    assert [*found.values()] == [f"100.00 / 100.00 (vq-mae-av, {marks}1 of 2 folds)"]


def test_runs_with_unknown_losses_are_in_no_row() -> None:
    unknown = summary_of("ravdess", BEST.replace("both", "unknown"))
    assert not any(cells(table, unknown) for table in "1234567")


def test_numbers_of_parameters_are_those_that_the_paper_prints() -> None:
    assert {row.table for row in ROWS if row.parameters_millions} == {"3", "5"}
    assert all(row.parameters_millions for row in ROWS if row.table in ("3", "5"))

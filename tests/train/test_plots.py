"""Figures are the same bytes for the same numbers, 1400 pixels wide, and show what they were given."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from tests.factories import finished_runs
from train import metrics
from train.data.missing import CONDITIONS
from train.report import plots
from train.report.plots import LearningCurve
from train.report.reported import ScoreLine
from train.runs import EpochMetrics, RunResult, RunSummary, summarize_folds
from train.scoring import FoldScores, score_predictions

CURVE = LearningCurve(
    epochs=tuple(
        EpochMetrics(epoch=n, train_loss=1 / n, validation_loss=1 / n + 0.1 * n, validation_uar=1 - 1 / n)
        for n in range(1, 7)
    ),
    selected=3,
)


def scores(skill: float, seed: int = 0, classes: tuple[str, ...] = finished_runs.CLASSES) -> FoldScores:
    speakers = finished_runs.FOLDS[str(seed + 1)]
    return score_predictions(finished_runs.predictions(speakers, skill, seed=seed, classes=len(classes)), classes)


def summary(strategy: str, skill: float, folds: int = 3) -> RunSummary:
    runs = (finished_runs.run(strategy=strategy, fold=str(seed + 1)) for seed in range(folds))
    return summarize_folds(
        [
            RunResult(
                run=run,
                scores=scores(skill, seed),
                corpus_clips=33,
                missing=dict.fromkeys(CONDITIONS, scores(skill / 2, seed)),
            )
            for seed, run in enumerate(runs)
        ]
    )


def pixels(png: bytes) -> np.ndarray:
    """[height, width, 4] in 0..1."""
    return matplotlib.image.imread(io.BytesIO(png))


def has(png: bytes, color: str) -> bool:
    """Whether enough pixels have just this colour."""
    wanted = np.array(matplotlib.colors.to_rgb(color))
    return int((np.abs(pixels(png)[:, :, :3] - wanted).max(axis=2) < 0.01).sum()) > 30


FIGURES = {
    "missing": lambda: plots.missing_modality([summary("faces", 0.3), summary("cfas", 0.9, folds=2)], "demo"),
    "one curve": lambda: plots.learning_curves({"1": CURVE}, "demo, cfas"),
    "curves": lambda: plots.learning_curves({"1": CURVE, "2": replace(CURVE, selected=5)}, "demo, cfas"),
    "no epoch": lambda: plots.learning_curves({"1": replace(CURVE, epochs=())}, "demo, cfas"),
    "confusion": lambda: plots.confusion_matrix(scores(0.8), "demo, cfas"),
    "comparison": lambda: plots.comparison([summary("faces", 0.3), summary("cfas", 0.9, folds=2)], "demo"),
    "one fold": lambda: plots.comparison(
        [summary("cfas", 1.0, folds=1)], "demo", ScoreLine(name="best", uar=0.5, war=0.6)
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_whatever_the_user_set(name: str) -> None:
    png = FIGURES[name]()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30, "lines.linewidth": 9}):
        assert FIGURES[name]() == png
    assert pixels(png).shape[1] == 1400 and b"Software" not in png and b"matplotlib" not in png


def test_drawing_leaves_the_users_settings_alone() -> None:
    with matplotlib.rc_context({"font.size": 20}):
        FIGURES["confusion"]()
        assert matplotlib.rcParams["font.size"] == 20


def test_the_chosen_epoch_is_marked() -> None:
    without = plots.learning_curves({"1": replace(CURVE, selected=99)}, "demo")
    marked = [plots.learning_curves({"1": replace(CURVE, selected=epoch)}, "demo") for epoch in (3, 4)]
    changed = [np.abs(pixels(png) - pixels(without)).max(axis=2) > 0.1 for png in marked]
    columns = [np.flatnonzero(part[:, :650].any(axis=0)).mean() for part in changed]
    # Epochs 1 to 6 spread over a panel of about 600 px: the mark moves by about a sixth of it.
    assert 80 < columns[1] - columns[0] < 140


def test_losses_and_uar_have_colours_of_their_own() -> None:
    png = plots.learning_curves({"1": CURVE}, "demo")
    assert all(has(png, color) for color in (plots.BLUE, plots.ORANGE, plots.GREEN))


def test_a_matrix_grows_with_its_classes_and_takes_any_name() -> None:
    few = pixels(plots.confusion_matrix(scores(0.8), "demo"))
    many = pixels(plots.confusion_matrix(scores(0.8, classes=(*"abcdef", "$x$", "a very long class name")), "demo"))
    assert many.shape[0] > few.shape[0] + 250


def test_a_row_without_clips_stays_empty() -> None:
    counts = tuple(map(tuple, np.diag([8, 0, 8, 8]).tolist()))
    made = FoldScores(classes=finished_runs.CLASSES, confusions={"S01": counts})
    picture = pixels(plots.confusion_matrix(made, "demo"))
    cells = picture[60:-110, 200:1380, :3]
    rows = np.array_split(cells, 4)
    assert [bool((row.min(axis=2) < 0.5).any()) for row in rows] == [True, False, True, True]


def test_chance_and_the_ceiling_are_drawn_where_they_are() -> None:
    summaries = [summary("faces", 0.4), summary("cfas", 0.9)]
    plain = plots.comparison(summaries, "demo")
    lined = plots.comparison(summaries, "demo", ScoreLine(name="most that one modality can tell", uar=0.5, war=0.5))
    assert plain != lined
    uar, war = metrics.chance(summaries[0].pooled.confusion)
    assert plots.chance_line(summaries) == ScoreLine(name="chance", uar=uar, war=war)
    assert (uar, war) == (0.25, 0.25)


def test_all_there_is_to_see_is_within_the_axes() -> None:
    summaries = [summary("faces", 0.2), summary("cfas", 1.0)]
    low, high = plots.score_limits(summaries, "war", [plots.chance_line(summaries)])
    scores = [100 * result.scores.war for one in summaries for result in one.results]
    assert low < min(*scores, 25) and max(scores) < high <= 101


def test_a_strategy_with_folds_missing_says_so() -> None:
    assert plots.row_label(summary("cfas", 0.9, folds=2)) == "cfas\n2 of 3 folds"
    assert plots.row_label(summary("cfas", 0.9)) == "cfas"

"""Pictures are the same bytes for the same numbers, as wide as promised, and show what they were given."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from tests.factories import finished_runs
from train import metrics, plots
from train.evaluate import FoldResult, summarise
from train.plots import Curve, Line
from train.runs import Epoch, Outcome, Summary, summarise_runs

CURVE = Curve(
    epochs=tuple(
        Epoch(epoch=n, train_loss=1 / n, validation_loss=1 / n + 0.1 * n, validation_uar=1 - 1 / n) for n in range(1, 7)
    ),
    chosen=3,
)


def result(skill: float, seed: int = 0, classes: tuple[str, ...] = finished_runs.CLASSES) -> FoldResult:
    speakers = finished_runs.FOLDS[str(seed + 1)]
    return summarise(finished_runs.predictions(speakers, skill, seed=seed, classes=len(classes)), classes)


def summary(strategy: str, skill: float, folds: int = 3) -> Summary:
    return summarise_runs(
        [
            Outcome(
                run=finished_runs.run(strategy=strategy, fold=str(seed + 1)),
                predictions_sha256="0" * 64,
                result=result(skill, seed),
            )
            for seed in range(folds)
        ]
    )


def pixels(png: bytes) -> np.ndarray:
    """[height, width, 4] in 0..1."""
    return matplotlib.image.imread(io.BytesIO(png))


def has(png: bytes, color: str) -> bool:
    """Whether enough pixels have just this colour."""
    wanted = np.array(matplotlib.colors.to_rgb(color))
    return int((np.abs(pixels(png)[:, :, :3] - wanted).max(axis=2) < 0.01).sum()) > 30


PICTURES = {
    "one curve": lambda: plots.learning_curves({"1": CURVE}, "demo, cfas"),
    "curves": lambda: plots.learning_curves({"1": CURVE, "2": replace(CURVE, chosen=5)}, "demo, cfas"),
    "no epoch": lambda: plots.learning_curves({"1": replace(CURVE, epochs=())}, "demo, cfas"),
    "confusion": lambda: plots.confusion_matrix(result(0.8), "demo, cfas"),
    "comparison": lambda: plots.comparison([summary("faces", 0.3), summary("cfas", 0.9, folds=2)], "demo"),
    "one fold": lambda: plots.comparison([summary("cfas", 1.0, folds=1)], "demo", Line(name="best", uar=0.5, war=0.6)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_whatever_the_user_set(name: str) -> None:
    png = PICTURES[name]()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30, "lines.linewidth": 9}):
        assert PICTURES[name]() == png
    assert pixels(png).shape[1] == 1400 and b"Software" not in png and b"matplotlib" not in png


def test_drawing_leaves_the_users_settings_alone() -> None:
    with matplotlib.rc_context({"font.size": 20}):
        PICTURES["confusion"]()
        assert matplotlib.rcParams["font.size"] == 20


def test_the_chosen_epoch_is_marked() -> None:
    without = plots.learning_curves({"1": replace(CURVE, chosen=99)}, "demo")
    marked = [plots.learning_curves({"1": replace(CURVE, chosen=chosen)}, "demo") for chosen in (3, 4)]
    changed = [np.abs(pixels(png) - pixels(without)).max(axis=2) > 0.1 for png in marked]
    columns = [np.flatnonzero(part[:, :650].any(axis=0)).mean() for part in changed]
    # Epochs 1 to 6 spread over a panel of about 600 px: the mark moves by about a sixth of it.
    assert 80 < columns[1] - columns[0] < 140


def test_losses_and_uar_have_colours_of_their_own() -> None:
    png = plots.learning_curves({"1": CURVE}, "demo")
    assert all(has(png, color) for color in (plots._BLUE, plots._ORANGE, plots._GREEN))


def test_a_matrix_grows_with_its_classes_and_takes_any_name() -> None:
    few = pixels(plots.confusion_matrix(result(0.8), "demo"))
    many = pixels(plots.confusion_matrix(result(0.8, classes=(*"abcdef", "$x$", "a very long class name")), "demo"))
    assert many.shape[0] > few.shape[0] + 250


def test_a_row_without_clips_stays_empty() -> None:
    made = result(1.0)
    counts = np.diag([8, 0, 8, 8])
    picture = pixels(plots.confusion_matrix(replace(made, confusion=tuple(map(tuple, counts.tolist()))), "demo"))
    cells = picture[60:-110, 200:1380, :3]
    rows = np.array_split(cells, 4)
    assert [bool((row.min(axis=2) < 0.5).any()) for row in rows] == [True, False, True, True]


def test_chance_and_the_ceiling_are_drawn_where_they_are() -> None:
    summaries = [summary("faces", 0.4), summary("cfas", 0.9)]
    plain = plots.comparison(summaries, "demo")
    lined = plots.comparison(summaries, "demo", Line(name="most that one modality can tell", uar=0.5, war=0.5))
    assert plain != lined
    uar, war = metrics.chance(np.array(summaries[0].pooled.confusion))
    assert plots._chance(summaries) == Line(name="chance", uar=uar, war=war)
    assert (uar, war) == (0.25, 0.25)


def test_all_there_is_to_see_is_within_the_axes() -> None:
    summaries = [summary("faces", 0.2), summary("cfas", 1.0)]
    low, high = plots._limits(summaries, "war", [plots._chance(summaries)])
    scores = [100 * outcome.result.war for one in summaries for outcome in one.outcomes]
    assert low < min(*scores, 25) and max(scores) < high <= 101


def test_a_strategy_with_folds_missing_says_so() -> None:
    assert plots._name(summary("cfas", 0.9, folds=2)) == "cfas\n2 of 3 folds"
    assert plots._name(summary("cfas", 0.9)) == "cfas"

"""The report on a folder of runs: the paper's Tables I to III with our rows beside, scores by fold, and pictures.

    <out>/report.md           for a repository; shows the pictures beside it
    <out>/report.html         the same in one file
    <out>/figures/*.png       strategies side by side, confusion matrices, learning curves

Same runs, same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from manifests.files import atomic_write
from manifests.text import pluralize
from train import plots, runs
from train.metrics import DRAWS, LEVEL, Spread
from train.pages import Picture, Row, Section, Table, markdown, page
from train.plots import Curve, Line
from train.published import PUBLISHED, Entry
from train.runs import LOG_FILE, Summary

#: Strategies in the order of the paper's tables, with the modalities that they see.
STRATEGIES: Mapping[str, str] = {
    "faces": "V",
    "spectrograms": "A",
    "rfas": "V+A",
    "sfas": "V+A",
    "ofos": "V+A",
    "cfas": "V+A",
    "ffls": "V+A",
    "fslf": "V+A",
}
NOT_RUN = "not run"
_NO_FILE_NAME = re.compile("[^A-Za-z0-9_-]+")

#: What one modality alone can reach, where a corpus was made so that this is known.
_CEILINGS: Mapping[str, Line] = {"demo": Line(name="most that one modality can tell", uar=0.5, war=0.5)}

_COMPARED = (
    "Method",
    "SSL",
    "Modality",
    "UAR",
    "WAR",
    "Pooled UAR",
    "Pooled WAR",
    "Classes",
    "Folds",
    "Epoch chosen on",
)
_OURS = ("Strategy", "UAR", "WAR", "Macro F1", "Weighted F1", "Pooled UAR", "Pooled WAR", "Clips", "Missing folds")
_TITLE = "Results"
_READING = (
    "In percent. UAR is the mean recall of the classes that a test fold has, WAR is accuracy. Ours: mean ± sample "
    "standard deviation over folds; pooled: all clips of these folds together, with a "
    f"{100 * LEVEL:.0f} % interval from {DRAWS:,} draws of speakers."
)


def write_report(folder: Path, out: Path) -> tuple[Path, Path]:
    """Make the report on a folder of runs, which may be empty or not there yet; the Markdown and the HTML page.

    Raises EvaluationError for a run that no score may be taken from, and OSError.
    """
    sections = report(folder)
    for picture in (picture for section in sections for picture in section.pictures):
        atomic_write(out / "figures" / picture.name, picture.png)
    pages = out / "report.md", out / "report.html"
    for path, text in zip(pages, (markdown(_TITLE, _READING, sections), page(_TITLE, _READING, sections)), strict=True):
        atomic_write(path, text.encode())
    return pages


def report(folder: Path) -> tuple[Section, ...]:
    """A section for each corpus with a finished run in `folder`, then one for each other that was published on."""
    ours: dict[str, list[Summary]] = {dataset: [] for dataset in PUBLISHED}
    for summary in runs.sweep(folder):
        ours.setdefault(summary.run.dataset, []).append(summary)
    finished_first = sorted(ours.items(), key=lambda item: not item[1])
    return tuple(_section(dataset, _in_order(summaries), folder) for dataset, summaries in finished_first)


def _section(dataset: str, done: Sequence[Summary], folder: Path) -> Section:
    published = PUBLISHED.get(dataset)
    title = published.title if published else dataset
    tables = [_compared(dataset, done), *([_detail(done), _by_fold(done)] if done else [])]
    return Section(title=title, tables=tuple(tables), pictures=_pictures(dataset, done, folder))


def _compared(dataset: str, done: Sequence[Summary]) -> Table:
    """What was published, then a row for each strategy, run or not."""
    published = PUBLISHED.get(dataset)
    theirs = (*published.paper, *published.others) if published else ()
    run = {summary.run.strategy for summary in done}
    missing = (name for name in STRATEGIES if name not in run)
    return Table(
        title="Published, and ours" if published else "Ours",
        columns=_COMPARED,
        rows=(*map(_published_row, theirs), *map(_our_row, done), *map(_row_not_run, missing)),
        notes=(*(published.notes if published else ()), *_trained(done)),
    )


def _published_row(entry: Entry) -> Row:
    scores = ["—" if value is None else f"{value:.2f}" for value in (entry.uar, entry.war)]
    told = entry.protocol
    cells = (entry.method, "✓" if entry.ssl else "×", entry.modality, *scores, "", "")
    return Row(cells=(*cells, told.classes, told.folds, told.selection), ours=False)


def _row_not_run(strategy: str) -> Row:
    return Row(cells=(f"ours, {strategy}", "", STRATEGIES[strategy], NOT_RUN, NOT_RUN, "", "", "", "", ""))


def _our_row(summary: Summary) -> Row:
    modality = STRATEGIES.get(summary.run.strategy, "")
    protocol, pooled = summary.run.protocol, summary.pooled
    scores = (_spread(summary.uar), _spread(summary.war), *_pooled(summary))
    folds = f"{len(summary.outcomes)} of {len(protocol.folds)} ({protocol.fold_scheme}), by subject"
    classes = f"{len(pooled.classes)} ({protocol.label_scheme})"
    ssl = "×" if protocol.weights is None else "✓"
    return Row(cells=(f"ours, {summary.name}", ssl, modality, *scores, classes, folds, protocol.selection))


def _trained(summaries: Iterable[Summary]) -> tuple[str, ...]:
    """How ours were trained, once for each way."""
    ways: dict[str, list[str]] = {}
    for summary in summaries:
        told = summary.run.protocol
        start = "a random start" if told.weights is None else f"the weights {told.weights}"
        way = (
            f"recipe {told.recipe}, encoder {told.encoder} from {start}, {told.feature}, settings {told.settings[:12]}"
        )
        ways.setdefault(way, []).append(summary.name)
    return tuple(f"Ours, {', '.join(names)}: {way}." for way, names in ways.items())


def _detail(summaries: Sequence[Summary]) -> Table:
    rows = []
    for summary in summaries:
        spreads = (summary.uar, summary.war, summary.macro_f1, summary.weighted_f1)
        rest = (f"{summary.pooled.clips:,}", ", ".join(summary.missing) or "none")
        rows.append(Row(cells=(summary.name, *map(_spread, spreads), *_pooled(summary), *rest)))
    return Table(title="Ours in detail", columns=_OURS, rows=tuple(rows))


def _by_fold(summaries: Sequence[Summary]) -> Table:
    """UAR / WAR of each fold and strategy."""
    folds = dict.fromkeys(fold for summary in summaries for fold in summary.run.protocol.folds)
    rows = []
    for fold in folds:
        found = [{outcome.run.fold: outcome.result for outcome in s.outcomes}.get(fold) for s in summaries]
        cells = [f"{_percent(result.uar)} / {_percent(result.war)}" if result else NOT_RUN for result in found]
        rows.append(Row(cells=(fold, *cells)))
    columns = ("Fold", *(summary.name for summary in summaries))
    return Table(title="UAR / WAR by fold", columns=columns, rows=tuple(rows))


def _pictures(dataset: str, summaries: Sequence[Summary], folder: Path) -> tuple[Picture, ...]:
    if not summaries:
        return ()
    text = f"{dataset}: strategies side by side"
    png = plots.comparison(summaries, dataset, _ceiling(dataset, summaries))
    pictures = [Picture(name=f"{dataset}-strategies.png", text=text, png=png)]
    for summary in summaries:
        title = f"{dataset}, {summary.name}"
        name = f"{dataset}-{_NO_FILE_NAME.sub('-', summary.name).strip('-')}"
        folds = pluralize(len(summary.outcomes), "fold")
        matrix = plots.confusion_matrix(summary.pooled, f"{title}, {folds}")
        curves = plots.learning_curves(_curves(summary, folder), title)
        pictures.append(Picture(name=f"{name}-confusion.png", text=f"{title}: confusion matrix", png=matrix))
        pictures.append(Picture(name=f"{name}-curves.png", text=f"{title}: learning curves", png=curves))
    return tuple(pictures)


def _curves(summary: Summary, folder: Path) -> dict[str, Curve]:
    """Fold -> how its run went."""
    made = [outcome.run for outcome in summary.outcomes]
    homes = [runs.run_folder(folder, run.dataset, run.strategy, run.fold) for run in made]
    logs = [runs.read_log(home / LOG_FILE) for home in homes]
    return {run.fold: Curve(epochs=log, chosen=run.epoch) for run, log in zip(made, logs, strict=True)}


def _ceiling(dataset: str, summaries: Sequence[Summary]) -> Line | None:
    """What fusion has to beat: the known ceiling of one modality, else the best score that one reached, by UAR."""
    single = [summary for summary in summaries if STRATEGIES.get(summary.run.strategy) in ("V", "A")]
    if dataset in _CEILINGS or not single:
        return _CEILINGS.get(dataset)
    best = max(single, key=lambda summary: summary.uar.mean)
    return Line(name=f"best single modality ({best.run.strategy})", uar=best.uar.mean, war=best.war.mean)


def _in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """The paper's order; strategies it does not have come last."""
    order = {name: place for place, name in enumerate(STRATEGIES)}
    return sorted(summaries, key=lambda summary: order.get(summary.run.strategy, len(order)))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _spread(spread: Spread) -> str:
    return _percent(spread.mean) + (" (one fold)" if spread.std is None else f" ± {_percent(spread.std)}")


def _pooled(summary: Summary) -> tuple[str, str]:
    """Pooled UAR and WAR with their intervals."""
    result, interval = summary.pooled, summary.pooled.interval
    if interval is None:
        return _percent(result.uar), _percent(result.war)
    return _ranged(result.uar, interval.uar), _ranged(result.war, interval.war)


def _ranged(value: float, span: tuple[float, float]) -> str:
    return f"{_percent(value)} [{_percent(span[0])}, {_percent(span[1])}]"

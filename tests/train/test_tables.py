"""The paper's tables are copied faithfully, ours stand beside them, and nothing in a run's names can run."""

from __future__ import annotations

import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.factories import finished_runs
from train.fusion import STRATEGIES
from train.lineage import Ancestor, Lineage
from train.report import write_report
from train.report.plots import ceiling_line
from train.report.render import (
    ReportFigure,
    ReportSection,
    ReportTable,
    TableRow,
    render_report,
    render_template,
)
from train.report.reported import REPORTED
from train.runs import LOG_FILE, finish_run, read_summaries, run_folder

PAPER = Path(__file__).parents[3] / "shared" / "papers" / "multimae-der-paper.txt"
MARKED = re.compile(r"</?[bu]>")


def paper_rows(number: str) -> list[tuple[str, ...]]:
    """Rows of one of the paper's tables, as its text has them."""
    text = PAPER.read_text().split(f"TABLE {number}  \n", 1)[1].split("Method\tSSL", 1)[1]
    lines = text.split("\n\n", 1)[0].splitlines()[1:]
    return [tuple(MARKED.sub("", line).split("\t")) for line in lines]


@pytest.mark.skipif(not PAPER.is_file(), reason="the paper's text is not beside this repository")
@pytest.mark.parametrize(
    ("number", "dataset", "count"), [("I", "ravdess", 19), ("II", "crema-d", 17), ("III", "iemocap", 11)]
)
def test_the_papers_tables_are_the_papers(number: str, dataset: str, count: int) -> None:
    def printed(value: float | None) -> str:
        return "—" if value is None else f"{value:.2f}"

    rows = [
        (entry.method, "✓" if entry.ssl else "×", entry.modality, printed(entry.uar), printed(entry.war))
        for entry in REPORTED[dataset].paper
    ]
    assert len(rows) == count and rows == paper_rows(number)


def test_the_best_rows_are_those_of_the_abstract() -> None:
    best = {dataset: max(entry.war for entry in known.paper) for dataset, known in REPORTED.items()}
    assert best == {"ravdess": 83.61, "crema-d": 79.36, "iemocap": 63.73}


def test_every_reported_result_has_a_protocol() -> None:
    for known in REPORTED.values():
        for entry in (*known.paper, *known.others):
            assert entry.protocol.classes and entry.protocol.folds and entry.protocol.selection
    hicmae = [entry for known in REPORTED.values() for entry in known.others if entry.method == "HiCMAE-B"]
    assert [entry.protocol.selection for entry in hicmae] == ["test fold"] * 2 + ["a validation file of its code"]
    assert {entry.protocol.averaging for entry in hicmae} == {"pooled"}


def test_pooled_scores_of_others_stand_in_the_pooled_columns(tmp_path: Path) -> None:
    text = write_report(tmp_path / "none", tmp_path)[0].read_text()
    row = cells(text, "RAVDESS", "HiCMAE-B")
    assert row[3:8] == ["", "", "87.96", "87.99", "5 of 6 folds (1,200 clips)"]
    assert cells(text, "RAVDESS", "Method")[3:8] == ["UAR", "WAR", "Pooled UAR", "Pooled WAR", "Training clips"]


def test_strategies_are_listed_once_in_the_order_of_the_papers_tables(tmp_path: Path) -> None:
    path, _ = write_report(tmp_path / "none", tmp_path)
    part = path.read_text().split("\n## RAVDESS", 1)[1].split("\n## ", 1)[0]
    ours = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ours, ")]
    strategies = sorted(STRATEGIES.values(), key=lambda strategy: strategy.order)
    assert [row[0] for row in ours] == [f"ours, {strategy.name}" for strategy in strategies]
    assert strategies[0].name == "faces"  # single modalities come first there
    for row, strategy in zip(ours, strategies, strict=True):
        assert ("V" in row[2], "A" in row[2]) == (strategy.faces > 0, strategy.windows > 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies on the demo, one of them with a fold missing."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in finished_runs.FOLDS:
        finished_runs.finish(folder, 0.9, fold=fold, strategy="fslf")
    for fold in ("1", "3"):
        finished_runs.finish(folder, 0.3, fold=fold, strategy="faces")
    return folder


def cells(text: str, section: str, first: str, table: str = "") -> list[str]:
    """Cells of the Markdown row that begins with `first`, in one section, or in one table of it."""
    part = text.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    if table:
        part = part.split(f"\n### {table}", 1)[1].split("\n### ", 1)[0]
    (row,) = [line for line in part.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_report_has_our_rows_beside_the_papers(folder: Path, tmp_path: Path) -> None:
    path, _ = write_report(folder, tmp_path)
    text = path.read_text()
    (fslf,) = [summary for summary in read_summaries(folder) if summary.run.strategy == "fslf"]
    row = cells(text, "demo", "ours, fslf")
    assert row[1:4] == ["random weights", "V+A", f"{100 * fslf.uar.mean:.2f} ± {100 * fslf.uar.std:.2f}"]
    low, high = fslf.pooled.interval.war
    assert row[6] == rf"{100 * fslf.pooled.war:.2f} \[{100 * low:.2f}, {100 * high:.2f}\]\*"
    folds = "3 of 3 (demo-3fold), by speaker"
    assert row[7:] == ["64", "1", "4 (demo-4)", folds, "UAR of validation speakers"]
    assert cells(text, "demo", "ours, faces")[10] == "2 of 3 (demo-3fold), by speaker"
    assert cells(text, "demo", "faces", "Ours in detail")[-1] == "2"
    assert cells(text, "demo", "2")[cells(text, "demo", "Fold").index("faces")] == "not run"
    assert "from random weights; mfcc, timeline uniform, align frame; float32, settings 000000000000" in text


def test_what_was_not_run_is_empty(folder: Path, tmp_path: Path) -> None:
    path, _ = write_report(folder, tmp_path)
    text = path.read_text()
    for section in ("demo", "RAVDESS", "CREMA-D", "IEMOCAP"):
        assert cells(text, section, "ours, rfas") == ["ours, rfas", "", "V+A", "not run", "not run", *[""] * 7]
    assert cells(text, "RAVDESS", "MultiMAE-DER-FSLF")[3:5] == ["83.23", "83.61"]
    assert text.index("## demo") < text.index("## RAVDESS")


def test_a_report_of_no_runs_is_the_published_tables(tmp_path: Path) -> None:
    path, html = write_report(tmp_path / "none", tmp_path)
    assert path.read_text().count("not run") == 2 * 8 * 3
    assert "<img" not in html.read_text()


def test_a_report_names_only_figures_that_are_there(folder: Path, tmp_path: Path) -> None:
    path, html = write_report(folder, tmp_path)
    named = re.findall(r"\]\((figures/[a-z-]+\.png)\)", path.read_text())
    assert sorted(named) == sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("figures/*"))
    assert len(named) == 6 and html.read_text().count("data:image/png;base64,") == 6


def test_the_same_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(folder, tmp_path / name)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_best_single_modality_is_the_line_where_no_ceiling_is_known(folder: Path) -> None:
    summaries = read_summaries(folder)
    assert ceiling_line("demo", summaries).war == 0.5
    line = ceiling_line("ravdess", summaries)
    assert line.name == "best single modality (faces)" and line.uar == summaries[0].uar.mean
    assert ceiling_line("ravdess", summaries[1:]) is None


class Reader(HTMLParser):
    """Every tag with its attributes, and all the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


#: `EVIL` as Markdown must have it.
SHOWN = r"&lt;script&gt;alert(1)&lt;/script&gt;'onload=x \| \`b\` \[c\](d) \*e\* \$f\$ &amp;amp; \# g".replace("'", '"')
EVIL = '<script>alert(1)</script>"onload=x | `b` [c](d) *e* $f$ &amp;\n# g'


def evil_section() -> ReportSection:
    table = ReportTable(title=EVIL, columns=(EVIL, "b"), rows=(TableRow(cells=(EVIL, EVIL)),), notes=(EVIL,))
    figure = ReportFigure(name="a.png", text=EVIL, png=b"png")
    return ReportSection(title=EVIL, tables=(table,), figures=(figure,))


def test_no_name_can_become_html() -> None:
    reader = Reader()
    _, text = render_report(EVIL, EVIL, [evil_section()])
    reader.feed(text)
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "section",
        "div",
        "table",
        "thead",
    }
    assert {tag for tag, _ in reader.tags} <= known | {"tbody", "tr", "th", "td", "ul", "li", "img"}
    (image,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image == {"alt": EVIL, "src": "data:image/png;base64,cG5n"}
    assert reader.text.count(EVIL) == 9
    assert not re.search(r'(src|href)="(?!data:image/png)', text)


def test_no_name_can_become_markdown() -> None:
    text, _ = render_report(EVIL, EVIL, [evil_section()])
    assert text.count(SHOWN) == 9 and "<" not in text
    row = next(line for line in text.splitlines() if line.startswith("| &lt;") and line.count(SHOWN) == 2)
    assert len(re.split(r"(?<!\\)\|", row)) == 4


def test_runs_on_a_scheme_of_classes_with_evil_names_are_reported(tmp_path: Path) -> None:
    classes = ("<b>", "$x$", "a|b", "sad")
    finished_runs.finish(
        tmp_path / "runs", dataset="demo", protocol=finished_runs.protocol(classes=classes, recipe="<i>")
    )
    path, html = write_report(tmp_path / "runs", tmp_path / "out")
    assert "<i>" not in html.read_text() and "recipe &lt;i&gt;, encoder tiny" in path.read_text()


def test_one_fold_has_no_deviation(tmp_path: Path) -> None:
    result = finished_runs.finish(tmp_path / "runs")
    path, _ = write_report(tmp_path / "runs", tmp_path / "out")
    assert cells(path.read_text(), "demo", "ours, cfas")[3] == f"{100 * result.scores.uar:.2f} (one fold)"


def test_one_speaker_has_no_interval(tmp_path: Path) -> None:
    run, found = finished_runs.run(), finished_runs.predictions(("S01",), 0.8)
    result = finish_run(
        tmp_path / "runs", run, found, finished_runs.expected_clips(found), finished_runs.missing(found), len(found)
    )
    (run_folder(tmp_path / "runs", "demo", "cfas", "1") / LOG_FILE).write_text("")
    path, _ = write_report(tmp_path / "runs", tmp_path / "out")
    assert result.scores.interval is None
    assert cells(path.read_text(), "demo", "ours, cfas")[5:7] == [
        f"{100 * result.scores.uar:.2f}",
        f"{100 * result.scores.war:.2f}",
    ]


def test_a_model_card_is_markdown_whatever_the_names(tmp_path: Path) -> None:
    result = finished_runs.finish(tmp_path, protocol=finished_runs.protocol(weights=EVIL, recipe="`a` <b>"))
    ancestor = Ancestor(dataset=EVIL, speakers=(EVIL,), labels=EVIL, strategy="cfas", build="b", licence="l")
    values = {
        "run": result.run,
        "protocol": result.run.protocol,
        "scores": result.scores,
        "classes": finished_runs.CLASSES,
        "licence": EVIL,
        "lineage": Lineage(origin=EVIL, ancestors=(ancestor,)),
        "about": {"title": EVIL, "licence": EVIL, "citation": "@misc{a,\n  title={*b*}\n}"},
    }
    card = render_template("model_card.md.j2", **values)
    assert card.count(SHOWN) == 8 and "<script" not in card
    assert "recipe `a <b>`" in card and card.endswith("    @misc{a,\n      title={*b*}\n    }\n")


@pytest.mark.parametrize("speakers", [3, 2])
def test_strategies_are_compared_on_the_same_speakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speakers: int
) -> None:
    """A far better one is told from the others, an equal one is not, and one with other folds is not compared.

    Of six speakers, two in each fold, nothing is said.
    """
    folds = {str(k): tuple(f"S{k}{n}" for n in range(speakers)) for k in (1, 2, 3)}
    monkeypatch.setattr(finished_runs, "FOLDS", folds)
    skills = {"cfas": 0.95, "sfas": 0.3, "fslf": 0.95, "faces": 0.5}
    for strategy, skill in skills.items():
        for fold in list(finished_runs.FOLDS)[: 2 if strategy == "faces" else 3]:
            finished_runs.finish(tmp_path / "runs", skill, strategy=strategy, fold=fold)
    text = write_report(tmp_path / "runs", tmp_path / "out")[0].read_text()
    summaries = {summary.name: summary.pooled for summary in read_summaries(tmp_path / "runs")}
    row = cells(text, "demo", "cfas - sfas")
    assert row[1].startswith(f"{100 * (summaries['cfas'].uar - summaries['sfas'].uar):+.2f} ")
    said = [cells(text, "demo", f"cfas - {other}")[3] for other in ("sfas", "fslf")]
    assert said == (
        ["By UAR, cfas is better than sfas on these speakers.", "By UAR, no difference can be shown on these speakers."]
        if speakers == 3
        else ["6 speakers: too few to tell."] * 2
    )
    assert "cfas - faces" not in text


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path: Path) -> None:
    for seed, skill in enumerate((0.7, 0.8, 0.9)):
        for fold in finished_runs.FOLDS:
            finished_runs.finish(tmp_path / "runs", skill, fold=fold, seed=seed)
    finished_runs.finish(tmp_path / "runs", 0.1, fold="1", seed=7)  # not all folds: not in the scores
    (summary,) = read_summaries(tmp_path / "runs")
    assert (summary.seeds, summary.missing, len(summary.results)) == ((0, 1, 2), (), 10)
    scores = {(one.run.fold, one.run.seed): one.scores for one in summary.results}
    for fold, merged in summary.folds.items():
        assert merged.uar == pytest.approx(sum(scores[fold, seed].uar for seed in range(3)) / 3)
        assert merged.clips == scores[fold, 0].clips
    by_seed = [sum(scores[fold, seed].uar for fold in finished_runs.FOLDS) / 3 for seed in range(3)]
    assert summary.uar_over_seeds.mean == pytest.approx(summary.uar.mean)
    assert summary.uar_over_seeds.std == pytest.approx(statistics.stdev(by_seed))
    text = write_report(tmp_path / "runs", tmp_path / "out")[0].read_text()
    assert cells(text, "demo", "ours, cfas")[8] == "3"
    assert f"± {100 * summary.uar_over_seeds.std:.2f}" in cells(text, "demo", "cfas", "Ours in detail")[5]

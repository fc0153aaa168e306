"""The report and the picture: right, complete, deterministic, self-contained, safe with any text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import run
from builder.clip_result import ClipResult, drop_clip, planned_row
from builder.config import BuildConfig
from builder.datasets import get_corpus
from builder.datasets.base import ClipSource, Scan
from builder.faces import TEMPLATES_PX
from builder.report import write_picture, write_report
from builder.report.axis import TimeAxis, stitch_windows, waveform_envelope, windows_seconds
from builder.report.figure import (
    LEFT_PX,
    RIGHT_PX,
    SHADED,
    WIDTH_PX,
    ClipFigure,
    Dot,
    Raster,
    Rectangle,
    Shape,
    Strokes,
    draw_clip,
    place_crops,
    template_marks,
)  # fmt: skip
from builder.report.images import ColorScale, spectrogram_image
from builder.report.page import MAX_LISTED
from builder.report.picture import render_picture
from builder.report.sampling import choose_clips
from builder.report.shard_reader import read_folder, read_samples
from builder.shards import ShardPlan, write_shard
from manifests.files import FolderError
from manifests.index import ManifestError, Row, SpectrogramSums, dump_dataset, load_dataset
from manifests.index_writer import write_index
from manifests.schema import COLUMNS, FEATURE_ROWS, Clip, Timing, encode
from tests.factories.builder_shards import sample

ROOT = Path("/recordings")
MINUS = "\N{MINUS SIGN}"
HOSTILE = """<script>alert("1")</script>'><img src=x onerror=alert(2)>&lt;{step}%s"""


# Folders -------------------------------------------------------------------------------------------------------------


def clip_of(speaker: str, emotion: str, number: int, **about: str) -> Clip:
    return Clip(clip_id=f"{speaker}-{number:03d}", speaker=speaker, emotion=emotion, **about)


def built(clip: Clip, features: Sequence[str] = ("mfcc",), **changes: Any) -> ClipResult:
    made = sample(clip, features, **({"face_found": (True,) * 16, "flags": ()} | changes))
    row = replace(_row(clip), status="flagged" if made.flags else "built", flags=made.flags, sha256="0" * 64)
    statistics = {name: SpectrogramSums.of(windows) for name, windows in made.spectrograms.items()}
    return ClipResult(row=row, members=encode(made), statistics=statistics)


def lost(clip: Clip, reason: str = "no_face", detail: str = "found a face in 3 of 16 frames") -> ClipResult:
    return drop_clip(_row(clip), reason, detail)


def _source(clip: Clip) -> ClipSource:
    return ClipSource(clip=clip, video=ROOT / f"{clip.clip_id}.mp4")


def _row(clip: Clip) -> Row:
    return planned_row(_source(clip), ROOT)


def _plan(speaker: str, clips: Sequence[ClipResult]) -> ShardPlan:
    about = [Clip(clip_id=c.row.clip_id, speaker=speaker, emotion=c.row.emotion) for c in clips]
    return ShardPlan(name=f"{speaker}-000.tar", speaker=speaker, sources=tuple(map(_source, about)), digest="d" * 64)


def folder_of(out: Path, clips: Iterable[ClipResult], features: Sequence[str] = ("mfcc",), **config: Any) -> Path:
    """A finished build of these clips, one shard a speaker."""
    speakers: dict[str, list[ClipResult]] = {}
    for clip in clips:
        speakers.setdefault(clip.row.speaker, []).append(clip)
    for name in (".", "receipts", "folds"):
        (out / name).mkdir(parents=True, exist_ok=True)
    plans = [_plan(speaker, speakers[speaker]) for speaker in sorted(speakers)]
    planned = run.BuildPlan(
        config=BuildConfig(dataset="folder"),
        corpus=get_corpus("folder"),
        scan=Scan(sources=()),
        root=ROOT,
        identity={
            "config": {"dataset": "folder", "features": list(features), "timeline": "uniform", "align": "frame"}
            | {"crop": "aligned"}
            | config,
            "versions": {"numpy": "2"},
        },
        shards=tuple(plans),
    )
    for plan in plans:
        write_shard(out, plan, speakers[plan.speaker])
    write_index(out, run.describe_dataset(planned), [plan.name for plan in plans])
    return out


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, three emotions; drops for two reasons, two flags."""
    clips = [built(clip_of(s, e, i)) for s in ("ann", "ben", "cy") for i, e in enumerate(("joy", "fear", "rage"))]
    clips += [
        built(clip_of("ann", "joy", 7), face_found=(True,) * 12 + (False,) * 4, flags=("faces_missing", "silent"))
    ]
    clips += [lost(clip_of("ann", "joy", 8)), lost(clip_of("ben", "fear", 8)), lost(clip_of("ben", "fear", 9))]
    clips += [lost(clip_of("cy", "rage", 8), "decode_error", "packet 7 is damaged")]
    return folder_of(tmp_path_factory.mktemp("mixed"), clips)


def resave(folder: Path, **changes: Any) -> None:
    """Change the index."""
    (folder / "dataset.json").write_bytes(dump_dataset(replace(load_dataset(folder), **changes)))


def edit_index(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    value = json.loads(path.read_text())
    value["about"] |= changes
    path.write_text(json.dumps(value))


# Reading a page ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser sees: elements with attributes, text by section, tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: Counter[str] = Counter()
        self.tables: list[list[list[str]]] = []
        self._open, self._in_cell = "", False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._open = ""
        self._in_cell &= tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._open != "style":
            self.text[data] += 1
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def with_head(self, *head: str) -> list[list[str]]:
        """Rows of all tables with this head."""
        return [row for table in self.tables if table[0][: len(head)] == list(head) for row in table[1:]]

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def report(folder: Path, **options: Any) -> Page:
    return Page(write_report(folder, **options))


# The page ------------------------------------------------------------------------------------------------------------


def test_same_folder_gives_same_bytes_wherever_it_lies(mixed: Path, tmp_path: Path) -> None:
    first = write_report(mixed).read_bytes()
    moved = Path(shutil.copytree(mixed, tmp_path / "elsewhere"))
    assert write_report(moved).read_bytes() == first
    assert str(mixed).encode() not in first


def test_counts_of_every_emotion_and_speaker(mixed: Path) -> None:
    page = report(mixed)
    assert [row[:4] for row in page.with_head("emotion", "in shards")] == [
        ["fear", "3", "·", "2"],
        ["joy", "4", "1", "1"],
        ["rage", "3", "·", "1"],
        ["all", "10", "1", "4"],
    ]
    assert page.with_head("speaker", "fear", "joy", "rage", "all") == [
        ["ann", "1", f"{MINUS}12", "1", f"{MINUS}14"],  # one dropped, two built
        ["ben", f"{MINUS}21", "1", "1", f"{MINUS}23"],
        ["cy", "1", "1", f"{MINUS}11", f"{MINUS}13"],
    ]


def test_headline_counts(mixed: Path) -> None:
    page = report(mixed)
    tiles = [page.text[text] for text in ("10", "28.6 % of 14")]
    assert all(tiles), page.text


def test_drops_by_reason_emotion_and_speaker(mixed: Path) -> None:
    page = report(mixed)
    assert page.with_head("emotion", "decode_error", "no_face") == [
        ["fear", "·", "2"],
        ["joy", "·", "1"],
        ["rage", "1", "·"],
    ]
    assert page.with_head("speaker", "decode_error", "no_face") == [
        ["ann", "·", "1"],
        ["ben", "·", "2"],
        ["cy", "1", "·"],
    ]


def test_every_dropped_clip_is_listed_with_what_was_found(mixed: Path) -> None:
    found = "found a face in 3 of 16 frames"
    assert report(mixed).with_head("clip", "speaker", "emotion", "what was found") == [
        ["cy-008", "cy", "rage", "packet 7 is damaged", "cy-008.mp4"],
        ["ann-008", "ann", "joy", found, "ann-008.mp4"],
        ["ben-008", "ben", "fear", found, "ben-008.mp4"],
        ["ben-009", "ben", "fear", found, "ben-009.mp4"],
    ]


def test_flagged_clips_are_explained_and_lead_to_their_picture(mixed: Path) -> None:
    page = report(mixed)
    links = [a["href"] for tag, a in page.elements if tag == "a" and a["href"] == "#clip-ann-007"]
    ids = [a["id"] for tag, a in page.elements if tag == "article"]
    assert len(links) == 2  # one for each of its flags
    assert "clip-ann-007" in ids
    assert page.text[": the sound is digital silence or close to it"] == 1


def test_borrowed_crops_are_marked(mixed: Path) -> None:
    page = report(mixed)
    assert page.text["borrowed"] == len(page.of_class("borrowed-label")) == 4
    assert len([a for tag, a in page.elements if tag == "rect" and a.get("class") == "borrowed"]) == 4


def test_folds_list_the_speakers_of_each_side(mixed: Path) -> None:
    rows = report(mixed).with_head("fold", "test clips")
    assert [row[:3] for row in rows] == [["ann", "4", "1 ann"], ["ben", "3", "1 ben"], ["cy", "3", "1 cy"]]
    assert all(sum(int(row[i]) for i in (1, 3, 5)) == 10 for row in rows)


def test_missing_files_are_counted_and_the_first_listed(mixed: Path) -> None:
    names = [f"video-{i:03d}.mp4" for i in range(MAX_LISTED + 7)]
    resave(mixed, missing=len(names), missing_names=tuple(names))
    page = report(mixed)
    resave(mixed, missing=0, missing_names=())
    assert page.text[names[0]] == page.text[names[MAX_LISTED - 1]] == 1
    assert page.text[names[MAX_LISTED]] == 0
    assert f"{len(names)} known files of the corpus are missing; the first of them:" in page.source


def test_nothing_is_fetched_and_nothing_runs(mixed: Path) -> None:
    edit_index(mixed, homepage="https://example.org/corpus")
    page = report(mixed)
    edit_index(mixed, homepage="")
    addresses = [
        v for _, a in page.elements for k, v in a.items() if k in ("href", "src", "action", "data", "xlink:href")
    ]
    outside = [a for a in addresses if a is not None and not a.startswith(("#", "data:image/webp;base64,"))]
    assert outside == ["https://example.org/corpus"]
    assert "script" not in {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import|@font-face", page.source)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_text_of_a_folder_is_escaped(tmp_path: Path) -> None:
    spoken = clip_of("ann", HOSTILE, 1, sentence=HOSTILE, intensity=HOSTILE)
    source = {"path": HOSTILE, "region": HOSTILE, HOSTILE: HOSTILE}
    clips = [
        built(spoken, source=source),
        built(clip_of("ben", "joy", 1)),
        lost(clip_of("cy", HOSTILE, 2), detail=HOSTILE),
    ]
    folder = folder_of(tmp_path, clips, options={HOSTILE: HOSTILE}, align=HOSTILE, timeline=HOSTILE)
    edit_index(folder, title=HOSTILE, licence=HOSTILE, citation=HOSTILE, homepage=f"javascript:{HOSTILE}")
    resave(folder, missing=1, missing_names=(HOSTILE,))
    page = report(folder)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    assert not [k for _, a in page.elements for k in a if k.startswith("on")]
    assert not [a for tag, a in page.elements if tag == "a" and not (a["href"] or "").startswith("#")]
    assert page.text[HOSTILE] > 12
    assert "<script" not in page.source


def test_a_folder_may_lack_drops_flags_and_folds_and_have_all_features(tmp_path: Path) -> None:
    features = tuple(FEATURE_ROWS)
    page = report(folder_of(tmp_path, [built(clip_of("solo", "joy", 1), features)], features))
    for text in ("No clip was dropped.", "No clip was flagged.", "No fold scheme fits the built speakers."):
        assert page.text[text] == 1
    assert page.text["MFCC"] == page.text["log-mel"] == page.text["STFT"] == 1


def test_a_folder_may_have_no_clip_at_all(tmp_path: Path) -> None:
    page = report(folder_of(tmp_path, [lost(clip_of("ann", "joy", 1))]))
    assert page.text["No clip was built."] == 1


@pytest.mark.parametrize("settings", [{"align": "none"}, {"crop": "marlin"}, {"crop": "voxceleb"}])
def test_squares_have_no_template_marks(settings: dict[str, str], tmp_path: Path) -> None:
    assert not report(folder_of(tmp_path, [built(clip_of("ann", "joy", 1))], **settings)).of_class("marks")


def test_each_crop_is_described_and_has_the_marks_of_its_template(tmp_path: Path) -> None:
    pages = {
        crop: report(folder_of(tmp_path / crop, [built(clip_of("ann", "joy", 1))], crop=crop))
        for crop in ("aligned", "openface", "marlin")
    }
    described = {
        crop: [text for text in page.text if text.startswith(("as ", "each "))] for crop, page in pages.items()
    }
    assert described["aligned"] == ["each crop on its own: eyes and size stay the same"]
    assert described["marlin"] == ["as MARLIN's: a tight square around the face in each frame"]
    assert pages["aligned"].of_class("marks") != pages["openface"].of_class("marks") != []


@pytest.mark.slow
def test_stays_small_for_a_large_corpus(tmp_path: Path) -> None:
    features = tuple(FEATURE_ROWS)
    one = built(clip_of("1001", "e0", 0), features)
    same = [replace(one.row, clip_id=f"1001-{i:03d}", emotion=f"e{i % 6}") for i in range(24)]
    clips = [replace(one, row=row) for row in same]
    clips += [lost(clip_of(f"{1001 + i % 91}", f"e{i % 6}", 100 + i)) for i in range(7_400)]
    path = write_report(folder_of(tmp_path, clips, features))
    page = Page(path)
    assert len([tag for tag, _ in page.elements if tag == "article"]) == 24
    assert page.text[f"and {7_400 - MAX_LISTED:,} clips more; all are in clips.jsonl"] == 1
    assert path.stat().st_size < 6e6, "even where crops, sound and all features are noise, which compresses worst"


def test_needs_no_face_models(mixed: Path) -> None:
    code = "import sys; sys.modules.update(ai_edge_litert=None, mediapipe=None, av=None); from pathlib import Path; "
    code += "from builder.report import write_report as write; write(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(mixed)], check=True)


def test_an_unfinished_or_damaged_folder_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [built(clip_of("ann", "joy", 1))])
    tar = folder / "ann-000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:20_000])
    with pytest.raises(ManifestError, match=r"ann-000\.tar: truncated; fetch"):
        write_report(folder)
    tar.unlink()
    with pytest.raises(ManifestError, match=r"ann-000\.tar: missing"):
        write_report(folder)
    tar.write_bytes(bytes(len(whole)))
    with pytest.raises(ManifestError, match=r"ann-000\.tar: ann-001: "):
        write_report(folder)
    index = folder / "dataset.json"
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(ManifestError, match="unfinished build"):
        write_report(folder)


def test_a_damaged_fold_file_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [built(clip_of(s, "joy", 1)) for s in ("ann", "ben", "cy")])
    path = folder / "folds" / "loso.json"
    path.write_text(path.read_text().replace("ann-000.tar", "eve-000.tar"))
    with pytest.raises(ManifestError, match=r"loso\.json"):
        write_report(folder)
    path.unlink()
    with pytest.raises(ManifestError, match=r"loso\.json: missing"):
        write_report(folder)


def test_times_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    endless = replace(sample().timing, span_seconds=(0.0, 1e300))
    folder = folder_of(tmp_path, [built(clip_of("ann", "joy", 1), timing=endless)])
    with pytest.raises(ManifestError, match="expected a timeline"):
        write_report(folder)


# Time ----------------------------------------------------------------------------------------------------------------


def uniform_timing(start: float, step: float) -> Timing:
    instants = tuple(start + (i + 0.5) * step for i in range(16))
    return Timing(
        span_seconds=(start, start + 16 * step),
        instants_seconds=instants,
        frame_seconds=tuple(t + 0.1 * step for t in instants),
        step_seconds=step,
        audio_start_seconds=start,
    )


timings = st.builds(uniform_timing, st.floats(-5, 500), st.floats(0.01, 20))


@given(timings, st.floats(0, 300), st.floats(10, 3000), st.floats(0, 1), st.floats(0, 1))
def test_seconds_become_places_in_proportion(timing: Timing, left: float, width: float, a: float, b: float) -> None:
    axis = TimeAxis.over(timing, left, width)
    start, end = axis.start_seconds, axis.end_seconds
    assert (start, end) == windows_seconds(timing)
    assert axis.x(start) == pytest.approx(left)
    assert axis.x(end) == pytest.approx(left + width)
    first, second = start + a * (end - start), start + b * (end - start)
    assert axis.x(second) - axis.x(first) == pytest.approx(axis.length(second - first), abs=1e-6 * width)


@given(timings)
def test_time_marks_are_few_round_and_on_the_axis(timing: Timing) -> None:
    axis = TimeAxis.over(timing, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 16
    assert all(axis.start_seconds - 1e-6 <= t <= axis.end_seconds + 1e-6 for t in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    assert np.allclose(np.array(ticks) / steps[0], np.rint(np.array(ticks) / steps[0]), atol=1e-4)


@given(timings, st.lists(st.floats(0, 0.999), min_size=1, max_size=20))
def test_windows_are_put_together_at_their_times(timing: Timing, shares: list[float]) -> None:
    starts = np.array(timing.instants_seconds) - timing.step_seconds
    hop = 2 * timing.step_seconds / COLUMNS
    windows = (starts[:, None] + np.arange(COLUMNS) * hop)[:, None, :]  # each column holds its own time
    start, end = windows_seconds(timing)
    seconds = start + np.array(shares) * (end - start - hop)
    assert np.allclose(stitch_windows(windows, timing, seconds), seconds, atol=0.501 * hop)


def test_outside_of_all_windows_there_is_nothing() -> None:
    timing = uniform_timing(0.0, 0.1)
    windows = np.ones((16, 13, COLUMNS), np.float16)
    assert np.isnan(stitch_windows(windows, timing, np.array([-0.06, 1.66]))).all()
    assert not np.isnan(stitch_windows(windows, timing, np.array([-0.05, 1.649]))).any()


@given(st.floats(-1, 1), st.integers(0, 15_999))
def test_a_click_is_drawn_where_it_sounds(audio_start: float, at: int) -> None:
    audio = np.zeros(16_000, np.int16)
    audio[at] = -16_384
    edges = np.linspace(-2, 3, 251)
    extremes = waveform_envelope(audio, audio_start, edges)
    bins = np.flatnonzero(extremes[:, 0] == -0.5)
    click = audio_start + at / 16_000
    assert len(bins) == 1
    assert edges[bins[0]] - 1e-4 <= click <= edges[bins[0] + 1] + 1e-4
    covered = np.flatnonzero(np.isfinite(extremes[:, 0]))
    assert edges[covered[0] + 1] >= audio_start
    assert edges[covered[-1]] <= audio_start + 1


def test_crops_stand_over_their_instants_unless_these_are_too_close() -> None:
    timing = uniform_timing(3.0, 0.2)
    axis = TimeAxis.over(timing, 80, 1100)
    width, centres = place_crops(axis, timing)
    assert width == pytest.approx(1100 / 17)
    assert centres == pytest.approx([axis.x(t) for t in timing.instants_seconds])
    uneven = replace(timing, instants_seconds=(*timing.instants_seconds[:-1], timing.instants_seconds[-2] + 0.15))
    width, centres = place_crops(axis, uneven)
    assert min(np.diff(centres)) == pytest.approx(width), "none covers another"
    long = replace(timing, span_seconds=(3.0, 40.0))
    width, centres = place_crops(TimeAxis.over(long, 80, 1100), long)
    assert width == pytest.approx(1100 / 17)
    assert np.allclose(np.diff(centres), width)
    assert centres[0] - width / 2 >= 80
    assert centres[-1] + width / 2 <= 1180


def axis_of(timing: Timing) -> TimeAxis:
    return TimeAxis.over(timing, LEFT_PX, WIDTH_PX - LEFT_PX - RIGHT_PX)


def of_style(figure: ClipFigure, style: str) -> list[Shape]:
    return [shape for shape in figure.shapes if not isinstance(shape, Raster) and shape.style == style]


def test_figure_shows_crops_click_and_spectrogram_at_the_same_place() -> None:
    timing, clap = uniform_timing(0.3, 0.125), 1.05
    columns = np.array(timing.instants_seconds)[:, None] + (np.arange(COLUMNS) / 112 - 1) * timing.step_seconds
    windows = np.repeat((np.abs(columns - clap) < 0.006)[:, None, :], 13, axis=1).astype(np.float16)
    audio = np.zeros(32_000, np.int16)
    audio[round((clap - timing.audio_start_seconds) * 16_000)] = 32_767
    made = sample(timing=timing, audio=audio, spectrograms={"mfcc_16": windows, "mfcc_8": windows[:8]})
    scale = ColorScale(mean=np.full((13, 1), 0.5), deviation=np.full((13, 1), 0.2))
    figure = draw_clip(made, {"mfcc": scale}, TEMPLATES_PX["aligned"])
    axis = axis_of(timing)
    frames = [shape.x for shape in figure.shapes if isinstance(shape, Dot)]
    assert frames == pytest.approx([axis.x(t) for t in timing.frame_seconds])
    (wave,) = of_style(figure, "wave")
    assert isinstance(wave, Strokes)
    loudest = max(wave.lines, key=lambda line: line[3] - line[1])[0]
    assert loudest == pytest.approx(axis.x(clap), abs=1.1)
    pixels = spectrogram_image(made, "mfcc", scale)
    (raster,) = [s for s in figure.shapes if isinstance(s, Raster) and np.array_equal(s.pixels, pixels)]
    brightness = pixels.astype(int).sum(axis=(0, 2))
    bright = (np.flatnonzero(brightness > brightness.mean()) + 0.5).mean() / len(brightness)
    assert raster.left + bright * raster.width == pytest.approx(axis.x(clap), abs=1.1)
    crops = [s for s in figure.shapes if isinstance(s, Raster) and s is not raster]
    assert [s.left + s.width / 2 for s in crops] == pytest.approx([axis.x(t) for t in timing.instants_seconds])


def test_shaded_windows_reach_from_one_instant_before_to_one_after() -> None:
    made = sample(timing=uniform_timing(0.0, 0.1))
    scale = ColorScale(mean=np.zeros((13, 1)), deviation=np.ones((13, 1)))
    figure = draw_clip(made, {"mfcc": scale}, TEMPLATES_PX["aligned"])
    axis = axis_of(made.timing)
    expected = [(made.timing.instants_seconds[i - 1], made.timing.instants_seconds[i + 1]) for i in SHADED]
    for style in ("window", "window-outline"):
        boxes = [shape for shape in of_style(figure, style) if isinstance(shape, Rectangle)]
        edges = [(box.left, box.left + box.width) for box in boxes]
        assert np.allclose(edges, [(axis.x(a), axis.x(b)) for a, b in expected])


def test_template_marks_lie_on_the_template() -> None:
    marks = template_marks(TEMPLATES_PX["aligned"], 512.0, 100.0, 224.0)  # a crop of full size from x = 400, y = 100
    centres = [((x0 + x1) / 2, y0) for x0, y0, x1, y1 in marks.lines if y0 == y1 and x1 - x0 == 16]
    assert np.allclose(centres, [(478, 184), (546, 184), (486, 258), (538, 258)])


def test_page_and_picture_show_every_shape_where_it_was_drawn(tmp_path: Path) -> None:
    faces = np.full((16, 224, 224, 3), 200, np.uint8)
    folder = folder_of(tmp_path, [built(clip_of("ann", "joy", 1), faces=faces)])
    build = read_folder(folder)
    samples = list(read_samples(build, build.rows))
    scale = ColorScale(mean=np.zeros((13, 1)), deviation=np.ones((13, 1)))
    figure = draw_clip(samples[0][1], {"mfcc": scale}, TEMPLATES_PX["aligned"])
    page = report(folder)
    boxes = [shape for shape in figure.shapes if isinstance(shape, Rectangle)]
    shown = [a for tag, a in page.elements if tag == "rect"]
    assert [(a["x"], a["y"], a["width"], a["class"]) for a in shown] == [
        (px(box.left), px(box.top), px(box.width), box.style) for box in boxes
    ]
    dots = [(shape.x, shape.y) for shape in figure.shapes if isinstance(shape, Dot)]
    assert [(a["cx"], a["cy"]) for tag, a in page.elements if tag == "circle"] == [(px(x), px(y)) for x, y in dots]
    assert len([a for tag, a in page.elements if tag == "path" and a["class"] == "wave"]) == 1
    pixels = cv2.imdecode(np.frombuffer(render_picture(build, samples, Path("a.png")), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    scale_px, title_px = 1400 / WIDTH_PX, 38
    for x, y in dots:
        assert (pixels[round((title_px + y) * scale_px), round(x * scale_px)] < 60).all(), "the dot's ink"
    for crop in [shape for shape in figure.shapes if isinstance(shape, Raster)][1:]:
        centre = (title_px + crop.top + crop.height * 0.3) * scale_px, (crop.left + crop.width / 2) * scale_px
        assert np.abs(pixels[round(centre[0]), round(centre[1])].astype(int) - 200).max() < 8, "the crop's gray"


def px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# The choice of clips -------------------------------------------------------------------------------------------------

rows = st.lists(
    st.builds(
        lambda speaker, emotion, flags, kept: (speaker, emotion, flags, kept),
        st.sampled_from("abcdefgh"),
        st.sampled_from(("joy", "fear", "rage")),
        st.sets(st.sampled_from(("silent", "several_faces")), max_size=1),
        st.booleans(),
    ),
    max_size=40,
).map(
    lambda drawn: [
        Row(
            clip_id=f"{speaker}-{i}",
            speaker=speaker,
            emotion=emotion,
            status="built" if kept else "dropped",
            flags=tuple(flags) if kept else (),
            source="x",
            shard=f"{speaker}-000.tar" if kept else None,
        )
        for i, (speaker, emotion, flags, kept) in enumerate(drawn)
    ]
)


@given(rows, st.integers(0, 30), st.randoms(use_true_random=False))
def test_choice_covers_emotions_flags_and_speakers(rows: list[Row], count: int, random: Any) -> None:
    kept = [row for row in rows if row.shard]
    chosen = choose_clips(rows, count)
    assert len(chosen) == min(count, len(kept)) == len({row.clip_id for row in chosen})
    emotions = {row.emotion for row in kept}
    flags = {flag for row in kept for flag in row.flags}
    if count >= len(emotions):
        assert {row.emotion for row in chosen} == emotions
    if count >= len(emotions) + len(flags):
        assert {flag for row in chosen for flag in row.flags} >= flags
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert choose_clips(shuffled, count) == chosen


def test_choice_takes_as_many_speakers_as_there_is_room_for() -> None:
    many = [
        Row(clip_id=f"{s}-{e}", speaker=f"{s}", emotion=e, status="built", source="x", shard=f"{s}-000.tar")
        for s in range(1001, 1092)
        for e in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    ]
    chosen = choose_clips(many, 24)
    assert len({row.speaker for row in chosen}) == 24
    assert set(Counter(row.emotion for row in chosen).values()) == {4}
    assert max(np.diff(sorted(int(row.speaker) for row in chosen))) <= 10, "from all over the list"


# The picture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_picture_is_wide_deterministic_and_of_the_given_clips(mixed: Path, tmp_path: Path, suffix: str) -> None:
    first = write_picture(mixed, tmp_path / f"a{suffix}").read_bytes()
    assert write_picture(mixed, tmp_path / f"b{suffix}").read_bytes() == first
    pixels = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape[1] == 1400
    one = cv2.imread(str(write_picture(mixed, tmp_path / f"c{suffix}", ["ann-007"])))
    assert one is not None
    assert one.shape[0] < pixels.shape[0] / 2


def test_picture_of_the_default_clips_is_small(tmp_path: Path) -> None:
    slopes = np.linspace(0, 255, 224).astype(np.uint8)  # sample()'s crops are noise, unlike faces
    faces = np.broadcast_to(slopes[:, None, None], (16, 224, 224, 3))
    folder = folder_of(tmp_path, [built(clip_of(s, s, 1), faces=faces) for s in ("ann", "ben", "cy")])
    assert 50_000 < write_picture(folder, tmp_path / "a.jpg").stat().st_size < 400_000


def test_picture_needs_clips_that_are_there_and_a_known_suffix(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found no clip 'ann-008' in the shards"):
        write_picture(mixed, tmp_path / "a.jpg", ["ann-000", "ann-008"])
    with pytest.raises(FolderError, match=r"a\.gif: unknown image format; choose a name with suffix \.jpg"):
        write_picture(mixed, tmp_path / "a.gif")
    empty = folder_of(tmp_path / "empty", [lost(clip_of("ann", "joy", 1))])
    with pytest.raises(ManifestError, match="found no clip in the shards"):
        write_picture(empty, tmp_path / "a.jpg")
    assert not [p for p in tmp_path.iterdir() if p.is_file()]

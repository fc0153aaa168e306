"""Renders `report.html` from its template: counts, dropped clips, clips with their time marks, folds, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from builder.faces import TEMPLATES_PX
from builder.report import tables
from builder.report.figure import Strokes, draw_clip, template_marks
from builder.report.images import RgbImage, color_scales, data_uri, mean_face
from builder.report.shard_reader import ReportFolder
from manifests.index import Dataset, Row
from manifests.kinds import PAIRS
from manifests.schema import CROP_PX, DROP_REASONS, FLAGS, FRAMES, Sample

#: Most entries of a list; the others are counted, and all are in `clips.jsonl`.
MAX_LISTED = 100
_MAX_SPEAKERS = 1000
#: Lists of up to this many clips are expanded; longer ones are collapsed.
_MAX_UNFOLDED = 12
_TIMELINES = {"uniform": "16 instants spread evenly over each clip", "fixed": "every {step}th frame from the start"}
_CROPS = {
    "openface": "as OpenFace writes them: its mean shape, 112 px enlarged to 224, without its mask",
    "marlin": "as MARLIN's: a tight square around the face in each frame",
    "voxceleb": "as VoxCeleb2's face tracks: a loose square that follows the face",
}
_ALIGNMENTS = {
    "frame": "each crop on its own: eyes and size stay the same",
    "clip": "one transform a clip: the head's motion stays",
    "none": "not aligned: a square around the face's box",
}


def render_page(
    build: ReportFolder, samples: Sequence[tuple[Row, Sample]], strips: Mapping[str, RgbImage] | None = None
) -> str:
    """Render the complete page with figures of the given clips. Every text from the folder is escaped.

    `strips` is clip id -> picture of all frames of the clip, of sequences.
    """
    dataset, config = build.dataset, build.dataset.identity["config"]
    dropped = [row for row in build.rows if row.shard is None]
    crop = str(config.get("crop", "aligned"))
    template = None if config.get("align") == "none" else TEMPLATES_PX.get(crop)
    scales = color_scales(build) if samples else {}
    mean = mean_face(sample for _, sample in samples)
    return (
        _environment(dataset)
        .get_template("report.html.j2")
        .render(
            build=build,
            dataset=dataset,
            about=dataset.about,
            title=str(dataset.about.get("title", dataset.dataset)),
            flagged=sum(bool(row.flags) for row in build.kept),
            dropped=dropped,
            speakers=len({row.speaker for row in build.kept}),
            speakers_without_clips=len({row.speaker for row in build.rows} - {row.speaker for row in build.kept}),
            size=format_bytes(sum(shard.bytes for shard in dataset.shards)),
            timeline=_describe_time(dataset),
            alignment=_CROPS.get(crop) or _describe_setting(_ALIGNMENTS, config, "align"),
            settings=sorted({**config, "versions": dataset.identity.get("versions", {})}.items()),
            emotions=tables.count_by_emotion(build),
            speaker_counts=tables.count_by_speaker(build),
            drop_counts=[tables.count_reasons(dropped, "emotion"), tables.count_reasons(dropped, "speaker")],
            drops=tables.group_rows((tables.drop_reason(row), row) for row in dropped),
            flags=tables.group_rows((flag, row) for row in build.kept for flag in row.flags),
            strips=strips or {},
            shown={row.clip_id for row, _ in samples},
            clips=((row, _describe_sample(sample), draw_clip(sample, scales, template)) for row, sample in samples),
            aligned=template is not None,
            mean_face=None if mean is None else data_uri(mean),
            mean_marks=None if template is None else template_marks(template, CROP_PX / 2, 0, CROP_PX),
            faces_found=sum(sum(sample.face_found) for _, sample in samples),
        )
    )


def _environment(dataset: Dataset) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("builder.report"),
        autoescape=True,  # names in a shard folder are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "setting": format_setting,
        "columns": tables.split_columns,
        "shorten": tables.shorten_names,
        "speaker_name": dataset.speaker_name,
        "px": format_px,
        "path": svg_path,
        "data_uri": data_uri,
        "thousands": "{:,}".format,
    }
    environment.globals |= {
        "DROP_REASONS": DROP_REASONS,
        "FLAGS": FLAGS,
        "CROP_PX": CROP_PX,
        "MAX_LISTED": MAX_LISTED,
        "MAX_SPEAKERS": _MAX_SPEAKERS,
        "MAX_UNFOLDED": _MAX_UNFOLDED,
    }
    return environment


def _describe_setting(meanings: Mapping[str, str], config: Mapping[str, Any], setting: str) -> str:
    """Describe a setting's value; the value itself if it is unknown."""
    value = str(config.get(setting, ""))
    return meanings[value].replace("{step}", str(config.get("step_frames"))) if value in meanings else value


def _describe_time(dataset: Dataset) -> str:
    """Which instants of a clip are stored."""
    config = dataset.identity["config"]
    if dataset.kind == PAIRS:
        return _describe_setting(_TIMELINES, config, "timeline")
    rate, side = config.get("rate_hz"), config.get("size_px", CROP_PX)
    frames = f"{rate:g} frames a second" if isinstance(rate, int | float) else "every frame of the recording"
    return f"{frames}, {side}x{side} pixels; figures show 16 instants spread evenly over each clip"


def _describe_sample(sample: Sample) -> dict[str, list[tuple[str, str]]]:
    """Times and provenance of a clip; hashes are in the index."""
    timing = sample.timing
    start, end = timing.span_seconds
    late = np.abs(np.subtract(timing.frame_seconds, timing.instants_seconds)).max() * 1000
    times = [
        ("span", f"{start:.3f}\N{EN DASH}{end:.3f} s"),
        ("step s", f"{timing.step_seconds * 1000:.1f} ms"),
        ("frames off by at most", f"{late:.0f} ms"),
        ("faces found", f"{sum(sample.face_found)} of the {FRAMES} shown"),
        ("sound from", f"{timing.audio_start_seconds:.3f} s"),
    ]
    source = []
    for key, value in sorted(sample.source.items()):
        if not key.endswith("sha256"):
            span = isinstance(value, list | tuple) and len(value) == 2
            source.append((key, (f"{value[0]}\N{EN DASH}{value[1]} s" if span else str(value))[:300]))
    return {"times": times, "source": source}


def format_setting(value: object) -> str:
    """Format lists and mappings without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return ", ".join(f"{k}: {v}" for k, v in sorted(value.items())) if isinstance(value, dict) else str(value)


def format_bytes(count: float) -> str:
    """Format bytes with a unit: `1.61 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def format_px(value: float) -> str:
    """Format pixels, rounded to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def svg_path(strokes: Strokes) -> str:
    """The `d` attribute of an SVG path; vertical and horizontal lines in their short form."""
    parts = []
    for x0, y0, x1, y1 in strokes.lines:
        end = (
            f"V{format_px(y1)}"
            if x0 == x1
            else f"H{format_px(x1)}"
            if y0 == y1
            else f"L{format_px(x1)} {format_px(y1)}"
        )
        parts.append(f"M{format_px(x0)} {format_px(y0)}{end}")
    return "".join(parts)

"""Predictions for clips, and how they are printed and written: as a table, as CSV or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import UserError
from manifests.files import atomic_write, remove_partial_files
from manifests.text import escape_unprintable
from train.scoring import format_csv, prediction_columns

FORMATS = ("table", "csv", "json")
#: Suffix of a file -> its format, unless another one is chosen.
SUFFIXES: Mapping[str, str] = {".csv": "csv", ".json": "json", ".txt": "csv"}


@dataclass(frozen=True, kw_only=True)
class ClipPrediction:
    """The prediction for one clip, or the reason why it has none."""

    clip: str
    """Clip id, or the path of the recording: as passed, or below the folder or the pattern that was passed."""
    speaker: str
    """Empty for a recording."""
    label: str | None
    """Class of the clip's own emotion; None where the classifier has no class for it."""
    probabilities: Mapping[str, float] | None
    """Class -> probability, in the classifier's order; None where the clip could not be built."""
    reason: str = ""
    """Why it could not be built, with what was found; "" for a clip that was."""
    missing: str = ""
    """Modality that the recording does not have, so that the other one alone was used: `sound` or `faces`, else ""."""
    seen: bool = False
    """Whether the classifier was trained or selected on the speaker, so that no score should count the clip."""

    @property
    def predicted(self) -> str | None:
        """The most probable class; None without probabilities."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities is not None else None


def format_for(path: Path) -> str:
    """The format of a file by its name. Raises UserError for a name that stands for none."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: found {path.suffix or 'no suffix'}, expected a name that ends with {', '.join(SUFFIXES)}; or "
            f"choose FORMAT= (--format) of {', '.join(FORMATS)}"
        )
    return SUFFIXES[path.suffix.lower()]


def write_clips(path: Path, kind: str, classes: Sequence[str], predictions: Sequence[ClipPrediction]) -> None:
    """Write predictions to a file, atomically, in one of `FORMATS`. Raises OSError."""
    remove_partial_files(path)
    atomic_write(path, format_clips(kind, classes, predictions).encode("utf-8", "backslashreplace"))


def format_clips(
    kind: str, classes: Sequence[str], predictions: Sequence[ClipPrediction], *, probabilities: bool = False
) -> str:
    """Predictions as text in one of `FORMATS`; a table has all `probabilities` on request, the others always."""
    if kind == "csv":
        return _format_csv(classes, predictions)
    if kind == "json":
        return _format_json(predictions)
    return "".join(f"{line}\n" for line in _format_table(classes, predictions, probabilities))


def _format_csv(classes: Sequence[str], predictions: Sequence[ClipPrediction]) -> str:
    """Columns: clip, speaker, label, predicted, a probability for each class, the modality that is missing, and the
    reason if it has no prediction.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; line breaks and other unprintable
    characters are escaped.
    """
    rows = []
    for clip in predictions:
        cells = [repr(share) for share in (clip.probabilities or {}).values()] or [""] * len(classes)
        texts = [_plain_cell(text) for text in (clip.clip, clip.speaker, clip.label or "", clip.predicted or "")]
        rows.append([*texts, *cells, clip.missing, _plain_cell(clip.reason)])
    return format_csv([*prediction_columns(classes), "missing", "reason"], rows).decode()


def _plain_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, or for several lines."""
    return ("'" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else "") + escape_unprintable(text)


def _format_json(predictions: Sequence[ClipPrediction]) -> str:
    """An array with an object for each clip, one a line; in ASCII, so that any name of a file is kept as it is."""
    objects = [
        {
            "clip": clip.clip,
            "speaker": clip.speaker or None,
            "label": clip.label,
            "predicted": clip.predicted,
            "probabilities": None if clip.probabilities is None else dict(clip.probabilities),
            "missing": clip.missing or None,
            "reason": clip.reason or None,
        }
        for clip in predictions
    ]
    return "[" + ",".join("\n" + json.dumps(each, allow_nan=False) for each in objects) + "\n]\n"


def _format_table(classes: Sequence[str], predictions: Sequence[ClipPrediction], probabilities: bool) -> Iterator[str]:
    """A header, then a line for each clip."""
    names = [escape_unprintable(clip.clip) for clip in predictions]
    clip_width = max(map(len, ("clip", *names)))
    class_width = max(map(len, ("predicted", *classes)))
    columns = [f"p({name})" for name in classes] if probabilities else ["probability"]
    yield "  ".join([f"{'clip':<{clip_width}}", f"{'predicted':<{class_width}}", *columns])
    for name, clip in zip(names, predictions, strict=True):
        result = f"not built: {escape_unprintable(clip.reason)}"
        if clip.probabilities is not None:
            shares = [*clip.probabilities.values()] if probabilities else [max(clip.probabilities.values())]
            widths = map(len, columns) if probabilities else [0]
            numbers = [f"{share:<{width}.3f}" for share, width in zip(shares, widths, strict=True)]
            label = [f"labelled {clip.label}"] if clip.label else []
            without = [f"without {clip.missing}"] if clip.missing else []
            result = "  ".join([f"{clip.predicted:<{class_width}}", *numbers, *label, *without]).rstrip()
        yield f"{name:<{clip_width}}  {result}"

"""Predictions of a trained classifier for shards, or for recordings that the builder turns into shards first."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.files import atomic_write, file_sha256, remove_partial_files
from manifests.index import load_rows
from manifests.schema import NAME
from manifests.text import escape_unprintable
from train.data.dataset import ClipTable, load_all_clips, members_for, open_folder, prefetch_shards
from train.data.loader import Loader
from train.data.missing import WHOLLY
from train.data.prefetch import ShardPrefetcher
from train.data.sampler import ClipSampler
from train.data.transforms import ClipTransform, evaluation_views
from train.distributed import Ranks, interrupt_on_signal
from train.fusion import strategy_named
from train.models.checkpoint_io import classifier_folder
from train.models.weights import TrainedClassifier, load_classifier
from train.provenance import Provenance
from train.scoring import FoldScores, Predictions, format_csv, prediction_columns, score_predictions
from train.trainer import run_inference

_BATCH = 16
#: Speaker and emotion of a recording.
_UNKNOWN = "unknown"


class PredictError(UserError):
    """A classifier, or its input, that cannot be used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A classifier and what it must be used with."""

    classifier: TrainedClassifier
    provenance: Provenance

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, in the order of the logits."""
        return self.classifier.classes


@dataclass(frozen=True, kw_only=True)
class ClipPrediction:
    """The prediction for one clip, or the reason why it has none."""

    clip: str
    """Clip id, or the path of the recording as passed."""
    speaker: str
    label: str | None
    """Class of the clip's own emotion; None where the classifier has no class for it."""
    probabilities: Mapping[str, float] | None
    """Class -> probability, in the classifier's order; None where the clip could not be built."""
    reason: str = ""
    """Why it could not be built, with what was found."""
    missing: str = ""
    """Modality that the recording does not have, so that the other one alone was used: `sound` or `faces`."""

    @property
    def top_class(self) -> tuple[str, float]:
        """The most probable class and its probability; "" and 0 without a prediction."""
        if self.probabilities is None:
            return "", 0.0
        return max(self.probabilities.items(), key=lambda item: item[1])


def load_predictor(folder: Path) -> Predictor:
    """The classifier of a finished run's folder, or an exported one. Raises PredictError or WeightsError."""
    if not folder.is_dir():
        raise PredictError(f"{folder}: no such folder, expected that of a finished run, or an exported one")
    home = classifier_folder(folder)
    classifier = load_classifier(home)
    where = f"{home}/config.json: details"
    provenance = Provenance.from_json(dict(classifier.details), where)
    provenance.check(classifier.classes, where)
    return Predictor(classifier=classifier, provenance=provenance)


def predict_shards(
    predictor: Predictor, location: str, ranks: Ranks, *, speakers: Sequence[str] = (), workers: int = 2
) -> list[ClipPrediction]:
    """Predictions for every clip of a folder of shards, or for those of some speakers, by clip id.

    Raises PredictError for shards built with other settings than those of the training and for unknown speakers,
    DataError, and the errors of opening a folder.
    """
    folder, provenance = open_folder(location), predictor.provenance
    changes = provenance.diff_build(folder.index.identity["config"])
    if changes:
        raise PredictError(
            f"{location}: was built with other settings than the training shards ({'; '.join(changes)}); "
            "build it with the same"
        )
    run = provenance.run
    members = members_for(folder.index, strategy_named(run.strategy), run.protocol.feature)
    if not folder.index.shards:
        return []
    available = [shard for shard in folder.index.shards if shard.name in folder.available]
    known = {shard.speaker for shard in available}
    if unknown := ", ".join(sorted(set(speakers) - known)):
        raise PredictError(f"{folder.path}: found no speaker {unknown}; available speakers: {', '.join(sorted(known))}")
    names = [shard.name for shard in available if not speakers or shard.speaker in speakers]
    clips, emotions = load_all_clips(folder, members, names)
    with prefetch_shards(folder, names) as prefetcher:
        probabilities = _predict_probabilities(predictor, clips, ranks, workers, prefetcher)
    mapping = provenance.mapping if folder.index.dataset == run.dataset else {}
    predictions = [
        ClipPrediction(
            clip=key.decode(),
            speaker=clips.speakers[shard],
            label=mapping.get(emotions[label]),
            probabilities=dict(zip(predictor.classes, row.tolist(), strict=True)),
            missing=WHOLLY.get(int(code), ""),
        )
        for key, shard, label, row, code in zip(
            clips.keys, clips.shard, clips.labels, probabilities, clips.missing, strict=True
        )
    ]
    return sorted(predictions, key=lambda prediction: prediction.clip)


def predict_recordings(
    predictor: Predictor, recordings: Sequence[Path], ranks: Ranks, *, workers: int = 2
) -> list[ClipPrediction]:
    """Predictions for recordings, in the order given, through the builder with the settings of the training shards.

    Raises PredictError for a file that is missing or a builder that fails. SIGTERM and SIGHUP, like Ctrl-C, end the
    builder and remove what it wrote.
    """
    for recording in recordings:
        if not recording.is_file():
            raise PredictError(f"{recording}: not found, expected a recording")
    clip_ids = name_clips(recordings)
    with interrupt_on_signal(), TemporaryDirectory(prefix="predict-") as temporary:
        shards = Path(temporary) / "shards"
        _build_shards(clip_ids, predictor.provenance.build, Path(temporary) / "recordings", shards)
        built = {found.clip: found for found in predict_shards(predictor, str(shards), ranks, workers=workers)}
        rows = {row.clip_id: row for row in load_rows(shards)}
    predictions = []
    for recording in recordings:
        row = rows[clip_ids[recording]]
        reason = f"{row.reason}, {row.detail}" if row.detail else str(row.reason)
        failed = ClipPrediction(clip="", speaker="", label=None, probabilities=None, reason=reason)
        predictions.append(replace(built.get(row.clip_id, failed), clip=str(recording), speaker=""))
    return predictions


def score_unseen(predictor: Predictor, predictions: Sequence[ClipPrediction]) -> tuple[FoldScores | None, int]:
    """Scores over the labelled clips of speakers unseen in training, None without any, and how many clips were seen."""
    labelled = [clip for clip in predictions if clip.label is not None and clip.probabilities is not None]
    seen = predictor.classifier.lineage.speakers(predictor.provenance.run.dataset)
    unseen = [clip for clip in labelled if clip.speaker not in seen]
    if not unseen:
        return None, len(labelled)
    rows = Predictions(
        clips=tuple(clip.clip for clip in unseen),
        speakers=tuple(clip.speaker for clip in unseen),
        labels=np.array([predictor.classes.index(str(clip.label)) for clip in unseen], dtype=np.int64),
        probabilities=np.array([[*(clip.probabilities or {}).values()] for clip in unseen], dtype=np.float32),
    )
    return score_predictions(rows, predictor.classes), len(labelled) - len(unseen)


def write_predictions(path: Path, predictor: Predictor, predictions: Sequence[ClipPrediction]) -> None:
    """Write a CSV: clip, speaker, label, predicted, a probability for each class, the modality that is missing, and the
    reason if it has no prediction.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; line breaks and other unprintable
    characters are escaped.
    """
    rows = []
    for clip in predictions:
        cells = [repr(share) for share in (clip.probabilities or {}).values()] or [""] * len(predictor.classes)
        texts = [_plain_cell(text) for text in (clip.clip, clip.speaker, clip.label or "", clip.top_class[0])]
        rows.append([*texts, *cells, clip.missing, _plain_cell(clip.reason)])
    remove_partial_files(path)
    atomic_write(path, format_csv([*prediction_columns(predictor.classes), "missing", "reason"], rows))


def _plain_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, or for several lines."""
    return ("'" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else "") + escape_unprintable(text)


def _predict_probabilities(
    predictor: Predictor, clips: ClipTable, ranks: Ranks, workers: int, prefetcher: ShardPrefetcher
) -> np.ndarray:
    """float32 [n, C], computed as in an evaluation. Raises PredictError unless all are finite."""
    model, run = predictor.classifier.model.to(ranks.device), predictor.provenance.run
    encoder = model.encoder.config
    unlabelled = replace(clips, labels=np.zeros(len(clips), dtype=np.int64))
    sampler = ClipSampler(clips=len(clips), batch_size=_BATCH, shuffle=False)
    transform = ClipTransform(
        strategy=strategy_named(run.strategy),
        classes=len(predictor.classes),
        feature=run.protocol.feature,
        normalization=predictor.provenance.normalization,
        input_range=encoder.input_range,
        input_size=encoder.input,
    )
    options = {"workers": workers, "pin": ranks.device.type == "cuda", "prefetcher": prefetcher}
    loader = Loader(unlabelled, sampler, face_px=transform.face_px, **options)
    provenance = predictor.provenance
    views = evaluation_views(flip=provenance.test_flip, crops=provenance.test_crops)
    logits = run_inference(model, loader, transform, ranks, views=views)
    probabilities = logits.double().softmax(1).float().numpy()
    if broken := np.flatnonzero(~np.isfinite(probabilities).all(axis=1)).tolist():
        raise PredictError(
            f"{clips.keys[broken[0]].decode()}: found no finite probability, expected one for each class; the "
            "classifier's weights or normalization statistics are out of range: train it again"
        )
    return probabilities


def name_clips(recordings: Sequence[Path]) -> dict[Path, str]:
    """Recording -> clip id, which does not depend on its place among the others: `rfas` draws an order from it.

    The id is the file's name without suffix, as in a corpus; where that is no valid id, or several files have it, it is
    derived from the file's content. Raises OSError.
    """
    stems = Counter(recording.stem for recording in dict.fromkeys(recordings))
    return {
        recording: recording.stem
        if NAME.fullmatch(recording.stem) and stems[recording.stem] == 1
        else f"sha256-{file_sha256(recording)}"
        for recording in recordings
    }


def _build_shards(clip_ids: Mapping[Path, str], settings: Mapping[str, Any], data: Path, out: Path) -> None:
    """Shards of recordings. The builder is a separate program, which the trainer starts and never imports."""
    data.mkdir()
    lines = ["clip,speaker,emotion"]
    for clip_id, recording in {
        clip_id: recording for recording, clip_id in clip_ids.items()
    }.items():  # equal files once
        link = data / f"{clip_id}{recording.suffix}"
        link.symlink_to(recording.absolute())
        lines.append(f"{link.name},{_UNKNOWN},{_UNKNOWN}")
    (data / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")
    command = [
        *(sys.executable, "-m", "builder", "shards", "--dataset=folder", f"--data={data}", f"--out={out}"),
        *(f"--feature={' '.join(settings['features'])}", f"--step={settings.get('step_frames', 6)}", "--allow-drops"),
        "--keep=incomplete",
    ]
    command += [f"--{name}={settings[name]}" for name in ("timeline", "crop", "align", "decoder") if name in settings]
    # In a session of its own, so that no signal but ours ends it: its workers follow it.
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nowhere, stdout=nowhere, start_new_session=True) as builder:
        try:
            status = builder.wait()
        finally:
            builder.kill()
    if status:
        raise PredictError(f"the builder failed with status {status}; its message is above")

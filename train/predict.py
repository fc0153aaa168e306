"""Predictions of a trained classifier for shards, or for recordings that the builder turns into shards first."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.common_labels import COMMON, CorpusEmotions, classes_by_name
from manifests.corpora import dataset_setting
from manifests.errors import UserError
from manifests.files import file_sha256
from manifests.index import Row, load_rows
from manifests.kinds import PAIRS, TOKENS
from manifests.labels import LABEL_SCHEMES
from manifests.progress import ProgressBar, log_line
from manifests.schema import CROP_PX, NAME, UNLABELLED
from manifests.text import pluralize, shorten_list
from manifests.tokens import token_source
from train.classification import run_inference
from train.clip_prediction import ClipPrediction, format_for, write_clips
from train.config import device_for
from train.data.clip_table import ClipTable, load_all_clips, members_for
from train.data.loader import Loader
from train.data.missing import WHOLLY
from train.data.prefetch import ShardPrefetcher
from train.data.sampler import ClipSampler
from train.data.shard_folder import ShardFolder, open_folder, prefetch_shards
from train.data.token_transform import TokenTransform
from train.data.transforms import ClipTransform, evaluation_views
from train.data.windows import EvenWindows
from train.distributed import Ranks, interrupt_on_signal
from train.fusion import strategy_named
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_io import classifier_folder, read_settings
from train.models.classifiers import load_trained_classifier
from train.models.own_encoder import recorded_config
from train.models.weights import TrainedClassifier
from train.provenance import Provenance
from train.recordings import find_recordings
from train.scoring import FoldScores, Predictions, score_predictions

_BATCH = 16
_CPU = Ranks(device=torch.device("cpu"))
#: Speaker and emotion of a recording.
_UNKNOWN = "unknown"
#: Suffix of a recording that can be in a table as it is.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


class PredictError(UserError):
    """A classifier, or its input, that cannot be used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A trained classifier. It classifies clips as its test fold was evaluated.

        from train.predict import Predictor

        predictor = Predictor.load("runs/demo/cfas/fold-S01")
        for clip in predictor(["clip.mp4", "folder of clips", "session-*/*.flv"]):
            print(clip.clip, clip.predicted, clip.probabilities, clip.reason)

    The prediction for a clip depends on the clip alone, not on which others are classified with it, nor in which order,
    but for the last bits of a probability.
    """

    classifier: TrainedClassifier
    provenance: Provenance
    """What the classifier was trained on, and how clips must be made for it."""
    ranks: Ranks = _CPU
    """Device that it computes on."""

    @classmethod
    def load(
        cls, run: str | Path, device: str = "auto", *, encoder: str | None = None, strategy: str | None = None
    ) -> Predictor:
        """The classifier of a finished run's folder, or of an exported one.

        `device` is `auto` for a GPU if the machine has one, `cpu`, `cuda` or `cuda:N`; `encoder` and `strategy` are as
        of `load_predictor`.

        Raises PredictError for a folder that does not exist, WeightsError for one without a complete classifier,
        ConfigError for a device that is not available. All are `manifests.errors.UserError`, in one line.
        """
        predictor = load_predictor(Path(run), encoder=encoder, strategy=strategy)
        return replace(predictor, ranks=Ranks(device=device_for(device)))

    def __call__(self, recordings: str | Path | Iterable[str | Path], *, workers: int = 2) -> list[ClipPrediction]:
        """Classify recordings; needs the builder, which is started as a program.

        `recordings` are files, folders (all recordings below, sorted, without hidden ones) and patterns such as
        `session-*/*.mp4`. `workers` are decoding threads, which do not change the result.

        Returns a prediction for each file, in the order given. A file that cannot be used does not stop the others: its
        prediction has a `reason` in place of probabilities. Raises PredictError if none can be read, or the builder
        fails.
        """
        names = [recordings] if isinstance(recordings, str | Path) else recordings
        return predict_recordings(self, names, self.ranks, workers=workers)

    def predict_shards(
        self, location: str | Path, *, speakers: Sequence[str] = (), workers: int = 2
    ) -> list[ClipPrediction]:
        """Classify every clip of a folder of shards, by path or address, or those of some speakers; by clip id.

        Raises PredictError for shards that were built with other settings than the training shards and for unknown
        speakers, DataError for damaged ones, StoreError for those that cannot be downloaded.
        """
        return predict_shards(self, str(location), self.ranks, speakers=speakers, workers=workers)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, in the order of the logits."""
        return self.classifier.classes


def load_predictor(folder: Path, *, encoder: str | None = None, strategy: str | None = None) -> Predictor:
    """The classifier of a finished run's folder, or an exported one.

    `encoder` and `strategy` are import paths of the user's own code, for a run that was trained with such: the code
    that a run names is never run by itself. Raises PredictError, WeightsError or OwnCodeError.
    """
    if not folder.is_dir():
        raise PredictError(f"{folder}: no such folder, expected that of a finished run, or an exported one")
    home = classifier_folder(folder)
    _check_named(home, encoder, strategy)
    classifier = load_trained_classifier(home, encoder)
    where = f"{home}/config.json: details"
    provenance = Provenance.from_json(dict(classifier.details), where)
    provenance.load_strategy(strategy, where)
    provenance.check(classifier.classes, where)
    return Predictor(classifier=classifier, provenance=provenance)


def _check_named(home: Path, encoder: str | None, strategy: str | None) -> None:
    """Raise WeightsError unless the user names all code of their own that a classifier needs."""
    settings = read_settings(home)
    own, details = recorded_config(settings, f"{home}/config.json"), settings.get("details")
    recorded = {
        "encoder": own.path if own else None,
        "strategy": details.get("strategy_path") if isinstance(details, dict) else None,
    }
    needed = {name: path for name, path in recorded.items() if path and isinstance(path, str)}
    named = {"encoder": encoder, "strategy": strategy}
    if all(named[name] is not None for name in needed):
        return
    code = " and ".join(f"the {name} {path}" for name, path in needed.items())
    options = " ".join(f"--{name} {path}" for name, path in needed.items())
    raise WeightsError(
        f"{home}/config.json: was trained with {code}, whose code is not in it and is run only if you name it: add "
        f"{' '.join(f'{name.upper()}={path}' for name, path in needed.items())} ({options}) where it can be imported"
    )


def predict_shards(
    predictor: Predictor, location: str, ranks: Ranks, *, speakers: Sequence[str] = (), workers: int = 2
) -> list[ClipPrediction]:
    """Predictions for every clip of a folder of shards, or for those of some speakers, by clip id.

    Raises PredictError for shards built with other settings than those of the training and for unknown speakers,
    DataError, and the errors of opening a folder.
    """
    return _predict_folder(predictor, location, ranks, speakers, workers, {})


def check_build(provenance: Provenance, folder: ShardFolder, location: str) -> None:
    """Raise PredictError for shards built with other settings than those of the training, or of another kind.

    Whole clips of shards with every frame are those of pairs, and pairs those: both may be used.
    """
    changes = provenance.diff_build(folder.index.identity["config"])
    if changes:
        raise PredictError(
            f"{location}: was built with other settings than the training shards ({'; '.join(changes)}); "
            "build it with the same"
        )
    tokenizer = token_source(folder.index.identity, location).tokenizer if folder.index.kind == TOKENS else ""
    if tokenizer != provenance.tokenizer:
        kind = folder.index.kind
        found = f"codes of the tokenizers {tokenizer[:12]}" if kind == TOKENS else f"shards of {kind}"
        expected = f"codes of {provenance.tokenizer[:12]}" if provenance.tokenizer else "pictures and sound"
        raise PredictError(f"{location}: found {found}, expected {expected}, as the classifier was trained on")
    if folder.index.kind == PAIRS and provenance.sees_parts:
        raise PredictError(
            f"{location}: found shards of pairs, which show whole clips; expected shards with every frame, which "
            f"FRAMES=all (--frames all) builds: the classifier sees {provenance.run.protocol.windows}"
        )


def _predict_folder(
    predictor: Predictor,
    location: str,
    ranks: Ranks,
    speakers: Sequence[str],
    workers: int,
    draw_keys: Mapping[str, str],
) -> list[ClipPrediction]:
    """As `predict_shards`. `draw_keys` is clip id -> the key that `rfas` draws the clip's order from, if another."""
    folder, provenance = open_folder(location), predictor.provenance
    check_build(provenance, folder, location)
    run = provenance.run
    members = members_for(folder.index, strategy_named(run.strategy), run.protocol.feature)
    if not folder.index.shards:
        return []
    available = [shard for shard in folder.index.shards if shard.name in folder.available]
    known = {shard.speaker for shard in available}
    if unknown := ", ".join(sorted(set(speakers) - known)):
        raise PredictError(f"{folder.path}: found no speaker {unknown}; available speakers: {', '.join(sorted(known))}")
    names = [shard.name for shard in available if not speakers or shard.speaker in speakers]
    every, chosen = list(load_rows(folder.path)), {*names}
    rows = [row for row in every if row.shard in chosen]
    if useless := [row for row in rows if _lacking(run.strategy, row)]:
        log_line(f"{location}: left out {pluralize(len(useless), 'clip')} with {_lacking(run.strategy, useless[0])}")
        if len(useless) == len(rows):
            return []
    clips, emotions = load_all_clips(folder, members, names)
    with prefetch_shards(folder, names) as prefetcher:
        probabilities = _predict_probabilities(predictor, clips, ranks, workers, prefetcher, draw_keys)
    mapping = _find_mapping(provenance, folder, location, emotions)
    seen = predictor.classifier.lineage.known_speakers(folder.index.dataset, every)
    predictions = [
        ClipPrediction(
            clip=key.decode(),
            speaker=clips.speakers[shard],
            label=mapping.get(emotions[label]),
            probabilities=dict(zip(predictor.classes, row.tolist(), strict=True)),
            missing=WHOLLY.get(int(code), ""),
            seen=clips.speakers[shard] in seen,
        )
        for key, shard, label, row, code in zip(
            clips.keys, clips.shard, clips.labels, probabilities, clips.missing, strict=True
        )
    ]
    return sorted(predictions, key=lambda prediction: prediction.clip)


def _find_mapping(
    provenance: Provenance, folder: ShardFolder, location: str, emotions: Sequence[str]
) -> Mapping[str, str]:
    """Raw emotion -> class of the classifier, empty for clips that cannot be scored; says which cannot, and why."""
    if emotions == (_UNKNOWN,):  # recordings
        return {}
    labelled = [emotion for emotion in emotions if emotion != UNLABELLED]
    if not labelled:
        log_line(f"{location}: not scored, because its clips have no labels")
        return {}
    run, classes = provenance.run, shorten_list(provenance.run.protocol.classes)
    dataset = folder.index.dataset
    if dataset not in provenance.corpora and run.reads_several:  # as a test across corpora would
        if run.protocol.label_scheme not in (COMMON, *LABEL_SCHEMES):
            log_line(
                f"{location}: not scored, because the classes ({classes}) are those of a table of {run.dataset}, and "
                f"no class is known for the emotions of {dataset}"
            )
            return {}
        corpus = CorpusEmotions(dataset=dataset, label_schemes=folder.index.label_schemes, emotions=labelled)
        mapping = classes_by_name(corpus, run.protocol.label_scheme, run.protocol.classes)
    elif dataset_setting(dataset) == dataset_setting(run.dataset) or dataset in provenance.corpora:
        trained = dataset if dataset in provenance.corpora else run.dataset  # of one's own, maybe renamed
        mapping = provenance.mapping_of(trained)
        if options := provenance.diff_options(trained, folder.index.identity["config"]):
            log_line(f"{location}: not scored, because its labels or its sound are others ({'; '.join(options)})")
            return {}
    else:  # own corpora name emotions freely
        log_line(
            f"{location}: not scored, because its labels ({shorten_list(sorted(labelled))}) are those of {dataset}, "
            f"and the classes ({classes}) those of {run.dataset}"
        )
        return {}
    if len(labelled) < len(emotions):
        log_line(f"{location}: clips without a label are not scored")
    if unknown := sorted(set(labelled) - mapping.keys()):
        named = shorten_list(unknown)
        log_line(f"{location}: clips labelled {named} are not scored: not among the classes ({classes})")
    return mapping


def _lacking(strategy: str, row: Row) -> str:
    """What a clip has nothing of, although the strategy reads nothing else; "" for a clip that can be classified."""
    reads = strategy_named(strategy)
    if "no_sound" in row.flags and not reads.faces:
        return f"no sound, which {strategy} needs"
    if "no_face" in row.flags and not reads.windows:
        return f"no usable face, which {strategy} needs"
    return ""


def predict_recordings(
    predictor: Predictor, names: Iterable[str | Path], ranks: Ranks, *, workers: int = 2
) -> list[ClipPrediction]:
    """Predictions for recordings, in the order given, through the builder with the settings of the training shards.

    `names` are files, folders and patterns: see `find_recordings`. A name without a readable file, or a file that is no
    recording, has a prediction with the reason. Raises PredictError if no file can be read, or for a builder that
    fails. SIGTERM and SIGHUP, like Ctrl-C, end the builder and remove what it wrote.
    """
    if strategy_named(predictor.provenance.run.strategy).tokens:
        raise PredictError(
            "recordings: found a classifier of codes, expected SHARDS= (--shards) with shards of tokens, which "
            "make tokens writes of sequences"
        )
    recordings = find_recordings(names)
    readable = [recording.path for recording in recordings if not recording.problem]
    if not readable:
        if not recordings:
            return []
        others = f" (and {len(recordings) - 1} more that cannot be classified)" if len(recordings) > 1 else ""
        raise PredictError(f"{recordings[0].path}: {recordings[0].problem}{others}")
    clip_ids = name_clips(readable)
    draw_keys = {clip_ids[path]: path.stem for path in readable if NAME.fullmatch(path.stem)}
    with interrupt_on_signal(), TemporaryDirectory(prefix="predict-") as temporary:
        shards = Path(temporary) / "shards"
        _build_shards(clip_ids, predictor.provenance.build, Path(temporary) / "recordings", shards)
        predicted = _predict_folder(predictor, str(shards), ranks, (), workers, draw_keys)
        rows = {row.clip_id: row for row in load_rows(shards)}
    built = {found.clip: found for found in predicted}
    predictions = []
    for recording in recordings:
        clip_id, reason = clip_ids.get(recording.path), recording.problem
        if clip_id is not None:
            row = rows[clip_id]
            reason = f"{row.reason}, {row.detail}" if row.detail else row.reason or ""
            reason = reason or _lacking(predictor.provenance.run.strategy, row)
        failed = ClipPrediction(clip="", speaker="", label=None, probabilities=None, reason=reason)
        predictions.append(replace(built.get(clip_id or "", failed), clip=str(recording.path), speaker=""))
    return predictions


def score_unseen(predictor: Predictor, predictions: Sequence[ClipPrediction]) -> tuple[FoldScores | None, int]:
    """Scores over the labelled clips of speakers unseen in training, None without any, and how many clips were seen."""
    labelled = [clip for clip in predictions if clip.label is not None and clip.probabilities is not None]
    unseen = [clip for clip in labelled if not clip.seen]
    if not unseen:
        return None, len(labelled)
    rows = Predictions(
        clips=tuple(clip.clip for clip in unseen),
        speakers=tuple(clip.speaker for clip in unseen),
        labels=np.array([predictor.classes.index(str(clip.label)) for clip in unseen], dtype=np.int64),
        probabilities=np.array([[*(clip.probabilities or {}).values()] for clip in unseen], dtype=np.float32),
    )
    return score_predictions(rows, predictor.classes), len(labelled) - len(unseen)


def write_predictions(path: Path, predictor: Predictor, predictions: Sequence[ClipPrediction], kind: str = "") -> None:
    """Write predictions in one of `clip_prediction.FORMATS`, by default that of the file's name.

    Raises UserError for a name that stands for none, OSError.
    """
    write_clips(path, kind or format_for(path), predictor.classes, predictions)


def _predict_probabilities(
    predictor: Predictor,
    clips: ClipTable,
    ranks: Ranks,
    workers: int,
    prefetcher: ShardPrefetcher,
    draw_keys: Mapping[str, str],
) -> np.ndarray:
    """float32 [n, C], computed as in an evaluation. Raises PredictError unless all are finite."""
    model, run = predictor.classifier.model.to(ranks.device), predictor.provenance.run
    encoder, strategy, classes = model.encoder.config, strategy_named(run.strategy), len(predictor.classes)
    unlabelled = replace(clips, labels=np.zeros(len(clips), dtype=np.int64))
    if draw_keys:
        keys = [draw_keys.get(key.decode(), key.decode()) for key in clips.keys]
        unlabelled = replace(unlabelled, keys=np.array(keys, dtype=np.bytes_))
    sampler = ClipSampler(clips=len(clips), batch_size=_BATCH, shuffle=False)
    if strategy.tokens:
        transform = TokenTransform(strategy=strategy, classes=classes, model=encoder)
    else:
        transform = ClipTransform(
            strategy=strategy,
            classes=classes,
            feature=run.protocol.feature,
            normalization=predictor.provenance.normalization,
            input_range=encoder.input_range,
            input_size=encoder.input,
        )
    options = {"workers": workers, "pin": ranks.device.type == "cuda", "prefetcher": prefetcher}
    provenance = predictor.provenance
    windows = EvenWindows(longest_seconds=provenance.window_seconds, count=provenance.test_windows)
    loader = Loader(unlabelled, sampler, face_px=transform.face_px, windows=windows, **options)
    views = evaluation_views(
        flip=provenance.test_flip,
        crops=provenance.test_crops,
        side=provenance.test_crop_side,
        windows=provenance.test_windows,
    )
    unit = "clip" if len(views) == 1 else "view"
    with ProgressBar(len(clips) * len(views), "classifying", unit) as bar:

        def classify(inputs: Any) -> Tensor:
            logits = model(inputs)
            bar.step(by=len(logits))
            return logits

        logits = run_inference(classify, loader, transform, ranks, views=views)
        probabilities = logits.double().softmax(1).float().numpy()
        if broken := np.flatnonzero(~np.isfinite(probabilities).all(axis=1)).tolist():
            raise PredictError(
                f"{clips.keys[broken[0]].decode()}: found no finite probability, expected one for each class; the "
                "classifier's weights or normalization statistics are out of range: train it again"
            )
    return probabilities


def name_clips(recordings: Sequence[Path]) -> dict[Path, str]:
    """Recording -> clip id, which does not depend on its place among the others, and is another one for each of them.

    The id is the file's name without suffix, as in a corpus; where that is no valid id, or several files have it but
    for upper and lower case, it is derived from the file's content, too. Raises OSError.
    """
    distinct = dict.fromkeys(recordings)
    stems = Counter(recording.stem.lower() for recording in distinct)

    def name(recording: Path) -> str:
        stem = recording.stem
        if not NAME.fullmatch(stem):
            return f"sha256-{file_sha256(recording)}"
        if stems[stem.lower()] == 1:
            return stem
        return f"sha256-{hashlib.sha256(f'{stem} {file_sha256(recording)}'.encode()).hexdigest()}"

    return {recording: name(recording) for recording in distinct}


def _build_shards(clip_ids: Mapping[Path, str], settings: Mapping[str, Any], data: Path, out: Path) -> None:
    """Shards of recordings. The builder is a separate program, which the trainer starts and never imports."""
    data.mkdir()
    lines = ["clip,speaker,emotion"]
    for clip_id, recording in {
        clip_id: recording for recording, clip_id in clip_ids.items()
    }.items():  # equal files once
        suffix = recording.suffix if _SUFFIX.fullmatch(recording.suffix) else ""  # no comma, quote or line break
        link = data / f"{clip_id}{suffix}"
        link.symlink_to(recording.absolute())
        lines.append(f"{link.name},{_UNKNOWN},{_UNKNOWN}")
    (data / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")
    command = [
        *(sys.executable, "-P", "-m", "builder", "shards", "--dataset=folder", f"--data={data}", f"--out={out}"),
        *(f"--feature={' '.join(settings['features'])}", f"--step={settings.get('step_frames', 6)}", "--allow-drops"),
        "--keep=incomplete",
    ]
    command += [f"--{name}={settings[name]}" for name in ("timeline", "crop", "align", "decoder") if name in settings]
    if settings.get("frames") == "all":
        command += ["--frames=all", f"--size={settings.get('size_px', CROP_PX)}"]
        command += [f"--rate={settings['rate_hz']}"] if settings.get("rate_hz") else []
    # The builder beside this package: with -P, none of the user's current folder.
    home, paths = str(Path(__file__).absolute().parents[1]), os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, paths] if paths else [home])}
    # In a session of its own, so that no signal but ours ends it: its workers follow it.
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nowhere, stdout=nowhere, start_new_session=True, env=environment) as builder:
        try:
            status = builder.wait()
        finally:
            builder.kill()
    if status:
        raise PredictError(f"the builder failed with status {status}; its message is above")

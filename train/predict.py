"""What a trained classifier says of clips: of shards, or of recordings that become shards first."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from manifests.errors import UserError
from manifests.index import load_rows
from train.data.dataset import Clips, ShardFolder, load_all_clips, members_for, open_folder, prefetch_shards
from train.data.loader import Loader
from train.data.prefetch import ShardPrefetcher
from train.data.sampler import ClipSampler
from train.data.transforms import ClipTransform
from train.distributed import Ranks
from train.evaluate import FoldResult, Predictions, summarise
from train.fusion import strategy_named
from train.models.weights import Pretrained, load_pretrained
from train.provenance import Provenance
from train.runs import MODEL
from train.trainer import predict_logits

_BATCH = 16
#: Speaker and emotion of a recording of which neither is known.
_UNKNOWN = "unknown"


class PredictError(UserError):
    """A classifier cannot be used on what it was given; one line that says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A classifier and what it must be used with."""

    pretrained: Pretrained
    provenance: Provenance

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return self.pretrained.classes


@dataclass(frozen=True, kw_only=True)
class Said:
    """What became of one clip."""

    clip: str
    """Clip id, or the recording as it was named."""
    speaker: str
    label: str | None
    """Class of the clip's own emotion, None where it has none of the classifier's."""
    probabilities: tuple[float, ...] | None
    """One for each class; None where the clip could not be built."""
    reason: str = ""
    """Why it could not, with what was found."""


def load_predictor(folder: Path) -> Predictor:
    """The classifier of a finished run's folder, or an exported one. Raises PredictError or WeightsError."""
    if not folder.is_dir():
        raise PredictError(f"{folder}: no such folder, expected that of a finished run, or an exported one")
    home = folder / MODEL if (folder / MODEL).is_dir() else folder
    pretrained = load_pretrained(home)
    provenance = Provenance.from_json(dict(pretrained.details), f"{home}/config.json: details")
    return Predictor(pretrained=pretrained, provenance=provenance)


def predict_shards(
    predictor: Predictor, location: str, ranks: Ranks, *, speakers: Sequence[str] = (), workers: int = 2
) -> list[Said]:
    """Every clip of a folder of shards, or those of some speakers, by clip id.

    Raises PredictError for shards that were made otherwise than those of the training, DataError and what opening a
    folder raises.
    """
    folder = open_folder(location)
    differ = predictor.provenance.differences(folder.dataset.identity["config"])
    if differ:
        raise PredictError(f"{location}: was built with {'; '.join(differ)}; build it like the training's shards")
    run = predictor.provenance.run
    members = members_for(folder.dataset, strategy_named(run.strategy), run.protocol.feature)
    if not folder.dataset.shards:
        return []
    names = _shards_of(folder, speakers)
    clips, emotions = load_all_clips(folder, members, names)
    on_way = prefetch_shards(folder, names)
    try:
        probabilities = _probabilities(predictor, clips, ranks, workers, on_way)
    finally:
        on_way.close()
    mapping = predictor.provenance.mapping if folder.dataset.dataset == run.dataset else {}
    said = [
        Said(
            clip=key.decode(),
            speaker=clips.speakers[shard],
            label=mapping.get(emotions[label]),
            probabilities=tuple(row.tolist()),
        )
        for key, shard, label, row in zip(clips.keys, clips.shard, clips.labels, probabilities, strict=True)
    ]
    return sorted(said, key=lambda one: one.clip)


def predict_recordings(
    predictor: Predictor, recordings: Sequence[Path], ranks: Ranks, *, workers: int = 2
) -> list[Said]:
    """Every recording, in the order given, through the builder with the settings of the training's shards.

    Raises PredictError for a file that is not there or a builder that cannot work.
    """
    with _built(predictor, recordings) as (shards, names):
        said = {names[one.clip]: one for one in predict_shards(predictor, str(shards), ranks, workers=workers)}
        rows = {names[row.clip_id]: row for row in load_rows(shards)}
    results = []
    for recording in recordings:
        one, row = said.get(str(recording)), rows[str(recording)]
        why = f"{row.reason}, {row.detail}" if row.detail else str(row.reason)
        made = one or Said(clip="", speaker="", label=None, probabilities=None, reason=why)
        results.append(replace(made, clip=str(recording), speaker=""))
    return results


def score(predictor: Predictor, said: Sequence[Said]) -> tuple[FoldResult | None, int]:
    """Scores over labelled clips of speakers the classifier never saw, None where there is none; clips of seen ones."""
    own = [one for one in said if one.label is not None and one.probabilities is not None]
    unseen = [one for one in own if one.speaker not in predictor.provenance.seen]
    if not unseen:
        return None, len(own)
    return summarise(_predictions(predictor, unseen), predictor.classes), len(own) - len(unseen)


def dump_said(predictor: Predictor, said: Sequence[Said]) -> bytes:
    """CSV: clip, speaker, label, predicted, a probability for each class, and why there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip", "speaker", "label", "predicted", *(f"p({name})" for name in predictor.classes), "reason"])
    for one in said:
        probabilities = [repr(np.float32(share).item()) for share in one.probabilities or ()]
        cells = probabilities or [""] * len(predictor.classes)
        writer.writerow([one.clip, one.speaker, one.label or "", predicted(predictor, one)[0], *cells, one.reason])
    return text.getvalue().encode()


def predicted(predictor: Predictor, said: Said) -> tuple[str, float]:
    """The likeliest class and its probability; "" and 0 where there is none."""
    if said.probabilities is None:
        return "", 0.0
    best = int(np.argmax(said.probabilities))
    return predictor.classes[best], said.probabilities[best]


def _probabilities(
    predictor: Predictor, clips: Clips, ranks: Ranks, workers: int, on_way: ShardPrefetcher
) -> np.ndarray:
    """float32 [n, C], by the same code as an evaluation."""
    model, provenance = predictor.pretrained.model.to(ranks.device), predictor.provenance
    encoder = model.encoder.config
    unlabelled = replace(clips, labels=np.zeros(len(clips), dtype=np.int64))
    sampler = ClipSampler(clips=len(clips), batch_size=_BATCH, shuffle=False)
    pin = ranks.device.type == "cuda"
    loader = Loader(unlabelled, sampler, workers=workers, pin=pin, prefetcher=on_way)
    transform = ClipTransform(
        strategy=strategy_named(provenance.run.strategy),
        classes=len(predictor.classes),
        feature=provenance.run.protocol.feature,
        normalization=provenance.standardisation,
        input_range=encoder.input_range,
        input_size=encoder.input,
    )
    return predict_logits(model, loader, transform, ranks).double().softmax(1).float().numpy()


def _predictions(predictor: Predictor, said: Sequence[Said]) -> Predictions:
    return Predictions(
        clips=tuple(one.clip for one in said),
        speakers=tuple(one.speaker for one in said),
        labels=np.array([predictor.classes.index(str(one.label)) for one in said], dtype=np.int64),
        probabilities=np.array([one.probabilities for one in said], dtype=np.float32),
    )


def _shards_of(folder: ShardFolder, speakers: Sequence[str]) -> list[str]:
    here = [shard for shard in folder.dataset.shards if shard.name in folder.available]
    known = {shard.speaker for shard in here}
    if unknown := sorted(set(speakers) - known):
        raise PredictError(
            f"{folder.path}: found no speaker {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return [shard.name for shard in here if not speakers or shard.speaker in speakers]


@contextmanager
def _built(predictor: Predictor, recordings: Sequence[Path]) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Shards of recordings, for the time of the block, and clip id -> recording.

    The builder is another program to the trainer: it is started, never imported.
    """
    with TemporaryDirectory(prefix="predict-") as home:
        data, out = Path(home) / "recordings", Path(home) / "shards"
        data.mkdir()
        lines, names = ["clip,speaker,emotion"], {}
        for number, recording in enumerate(dict.fromkeys(recordings)):
            if not recording.is_file():
                raise PredictError(f"{recording}: not there, expected a recording")
            link = data / f"{number:06}{recording.suffix}"
            link.symlink_to(recording.absolute())
            names[link.stem] = str(recording)
            lines.append(f"{link.name},{_UNKNOWN},{_UNKNOWN}")
        (data / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")
        _run_builder(predictor.provenance.build, data, out)
        yield out, names


def _run_builder(build: Mapping[str, object], data: Path, out: Path) -> None:
    features = build["features"]
    assert isinstance(features, list | tuple)
    settings = {name: build[name] for name in ("timeline", "align", "decoder") if name in build}
    command = [
        *(sys.executable, "-m", "builder", "shards", "--dataset", "folder", "--data", str(data), "--out", str(out)),
        *("--feature", " ".join(map(str, features)), "--step", str(build.get("step_frames", 6)), "--allow-drops"),
        *(part for name, value in settings.items() for part in (f"--{name}", str(value))),
    ]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise PredictError(
            f"the builder ended with status {ended.returncode}, for the reason above; it must be installed here, too"
        )

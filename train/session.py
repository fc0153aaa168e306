"""One run, from its configuration to its result: prepare, train, choose, test once."""

from __future__ import annotations

import json
import math
import platform
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.files import atomic_write, exclusive_lock
from train import runs
from train.checkpoint import Checkpoints, Progress, load_trained
from train.config import ConfigError, TrainConfig, protocol
from train.data import Clips
from train.evaluate import Predictions, expected_clips
from train.features import features
from train.feeds import Feed, HeldFeed, VideoFeed
from train.imaging import Imaging
from train.journal import Journal, Say
from train.loader import Loader, Schedule
from train.loop import Training, fit, predict
from train.models.videomae import CHANNELS, Classifier
from train.models.weights import fingerprint, save_pretrained
from train.optim import make_optimizer
from train.prepare import Corpus, fetch_line, make_classifier, make_imaging, open_corpus
from train.provenance import Provenance
from train.ranks import Ranks
from train.runs import CONFIG_FILE, MODEL, Protocol, Run, RunResult

#: Folder, among the runs, of frozen features.
FEATURES = ".features"
#: Most bytes of a side's inputs that are held in memory.
MOST_HELD_BYTES = 2**31
#: The hash over all settings, weights at the start and shards: it tells that something differs, not what.
_ALL = "protocol.settings"
#: Settings that change no score.
_INDIFFERENT = ("shards", "runs", "workers", "device", "accumulate", "save_steps", "check", "compile", "weights")


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A run that is ready to be trained."""

    config: TrainConfig
    corpus: Corpus
    model: Classifier
    """On the device."""
    licence: str
    imaging: Imaging
    protocol: Protocol
    ranks: Ranks
    say: Say

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return runs.run_folder(self.config.home, self.corpus.name, self.config.strategy, self.config.fold)

    @property
    def trained(self) -> nn.Module:
        """What is trained: all, or LayerNorm and Linear."""
        return nn.Sequential(self.model.fc_norm, self.model.head) if self.config.recipe.frozen else self.model

    def feed(self, side: str) -> Feed[Any]:
        """Clips of a side, shuffled and augmented if they are for training."""
        training, clips = side == "train", self.corpus.clips(side)
        if self.config.recipe.frozen:
            return self._held(clips, self._features(clips), training=training)
        if self.config.recipe.held:
            return self._held(clips, self._videos(clips), training=training)
        return self._video_feed(clips, training=training)

    def _video_feed(self, clips: Clips, *, training: bool) -> VideoFeed:
        schedule = self._schedule(len(clips), shuffle=training)
        return VideoFeed(
            loader=Loader(
                clips,
                schedule,
                workers=self.config.workers,
                pin=self.ranks.device.type == "cuda",
                supply=self.corpus.supply,
            ),
            imaging=self.imaging,
            size=self.model.encoder.config.input,
            device=self.ranks.device,
            pieces=self.config.accumulate,
            training=training,
        )

    def _held(self, clips: Clips, inputs: Tensor, *, training: bool) -> HeldFeed:
        return HeldFeed(
            inputs=inputs.to(self.ranks.device),
            labels=torch.from_numpy(clips.labels),
            keys=tuple(key.decode() for key in clips.keys),
            classes=self.imaging.classes,
            schedule=self._schedule(len(clips), shuffle=training),
            mixup=self.config.recipe.augmentation.mixup if training else 0.0,
        )

    def _videos(self, clips: Clips) -> Tensor:
        """[clips, 3, T, H, W], as the encoder sees them."""
        size = self.model.encoder.config.input
        need = 4 * len(clips) * CHANNELS * math.prod(size)
        if need > MOST_HELD_BYTES:
            raise ConfigError(
                f"recipe {self.config.recipe.name}: found {len(clips)} clips, {need / 1e9:.1f} GB to hold in memory, "
                f"expected at most {MOST_HELD_BYTES / 1e9:.0f} GB; choose another --recipe"
            )
        return predict(_unchanged, self._video_feed(clips, training=False), self.ranks)

    def _schedule(self, clips: int, *, shuffle: bool) -> Schedule:
        return Schedule(
            clips=clips,
            batch_size=self.config.recipe.batch // self.ranks.count,
            seed=self.config.seed,
            shuffle=shuffle,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )

    def _features(self, clips: Clips) -> Tensor:
        shards = {shard.name: shard.sha256 for shard in self.corpus.folder.dataset.shards}
        return features(
            self.model,
            clips,
            shards,
            self.imaging,
            cache=self.config.home / FEATURES,
            ranks=self.ranks,
            workers=self.config.workers,
            supply=self.corpus.supply,
            on_shard=lambda name: self.say(f"features of {name}"),
        )


def prepare(config: TrainConfig, ranks: Ranks, say: Say) -> Session:
    """Open and check all that a run needs. Raises the errors of `open_corpus`, WeightsError, ConfigError."""
    _check_ranks(config, ranks)
    corpus = open_corpus(config)
    start = make_classifier(config, len(corpus.scheme.classes))
    return Session(
        config=config,
        corpus=corpus,
        model=start.model.to(ranks.device),
        licence=start.licence,
        imaging=make_imaging(config, corpus, start.model.encoder.config),
        protocol=protocol(
            config,
            classes=tuple(corpus.scheme.classes),
            label_scheme=corpus.scheme.name,
            fold_scheme=corpus.fold_scheme,
            folds=corpus.folds,
            start_sha256=fingerprint(start.model),
            data_sha256=corpus.sha256,
        ),
        ranks=ranks,
        say=say if ranks.first else _silent,
    )


def train(session: Session) -> RunResult | None:
    """Train the run, or what is left of it, then read the test fold once. A finished run is only read.

    None where the test fold is not here: the model is kept, and the same run tests it another time.

    Raises ConfigError or EvaluationError for one that was made in another way, BusyError while another process trains
    it, Stopped when asked to stop, DataError or StoreError for a shard that is not as promised, and what the loop
    raises.
    """
    if is_finished(session):
        return runs.read_result(session.folder)
    with exclusive_lock(session.folder, "RUNS=") if session.ranks.first else nullcontext():
        return _complete(session)


def is_finished(session: Session) -> bool:
    """Whether the run was tested. Raises ConfigError or EvaluationError for one that was made in another way."""
    if (session.folder / CONFIG_FILE).is_file():
        _check_same(session.folder / CONFIG_FILE, _told(session)["identity"])
    return runs.is_done(session.folder, session.protocol)


def _complete(session: Session) -> RunResult | None:
    _begin(session)
    checkpoints = Checkpoints(folder=session.folder)
    try:
        progress = checkpoints.progress()
        if progress.epoch <= session.config.recipe.epochs:
            progress = _fitted(session, checkpoints)
        if progress.best is None:
            raise ConfigError(f"{session.folder}: found no epoch to choose; remove the folder to begin anew")
        load_trained(session.trained, checkpoints.best(progress.best.epoch))
        return _concluded(session, checkpoints, progress.best.epoch)
    finally:
        session.corpus.supply.close()


def _fitted(session: Session, checkpoints: Checkpoints) -> Progress:
    journal = Journal(session.folder if session.ranks.first else None, session.say)
    try:
        with asked_to_stop(session.corpus.supply.interrupt) as stop:
            return fit(_training(session, checkpoints, journal, stop))
    finally:
        journal.close()


def _concluded(session: Session, checkpoints: Checkpoints, epoch: int) -> RunResult | None:
    """Keep the chosen epoch's weights, which are in the model, and judge the run by them if the test fold is here."""
    config = session.config
    run = Run(
        dataset=session.corpus.name,
        strategy=config.strategy,
        fold=config.fold,
        protocol=session.protocol,
        epoch=epoch,
        epochs=config.recipe.epochs,
    )
    if session.ranks.first:
        _save_model(session, run)
    if not session.corpus.has_test:
        line = fetch_line(session.corpus.folder, config, "test")
        session.say(f"trained; the test fold is not here: {line} brings it, then the same command as now tests, once")
        return None
    outcome = _test(session, run)
    if session.ranks.first:
        checkpoints.clear()
    return outcome


def _training(session: Session, checkpoints: Checkpoints, journal: Journal, stop: Callable[[], bool]) -> Training:
    config, trained = session.config, session.trained
    return Training(
        model=trained,
        optimizer=make_optimizer(trained, session.model.encoder.config.depth, config.recipe),
        recipe=config.recipe,
        training=session.feed("train"),
        validation=session.feed("validation"),
        ranks=session.ranks,
        checkpoints=checkpoints,
        journal=journal,
        seed=config.seed,
        save_steps=config.save_steps,
        run=_callable(session, trained),
        stop=stop,
    )


def _callable(session: Session, trained: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model as training calls it: wrapped for several ranks, compiled on a GPU."""
    ranks, wanted = session.ranks, session.config.compile
    if ranks.count > 1:
        trained = DistributedDataParallel(trained, device_ids=None if ranks.device.type == "cpu" else [ranks.device])
    if session.config.recipe.frozen or wanted == "off" or (wanted == "auto" and ranks.device.type != "cuda"):
        return trained
    trained.compile()
    return trained


def _save_model(session: Session, run: Run) -> None:
    details = _provenance(session, run).to_json()
    classes = session.protocol.classes
    save_pretrained(session.model, session.folder / MODEL, classes=classes, licence=session.licence, details=details)


def _test(session: Session, run: Run) -> RunResult:
    """Predict the test fold with the weights in the model, and judge the run by it."""
    clips = session.corpus.clips("test")
    logits = predict(session.trained, session.feed("test"), session.ranks)
    if session.ranks.first:
        runs.finish_run(session.config.home, run, _predictions(clips, logits), expected_clips(clips))
    session.ranks.wait()
    return runs.read_result(session.folder)


def _provenance(session: Session, run: Run) -> Provenance:
    corpus = session.corpus
    return Provenance(
        run=run,
        normalization=session.imaging.standardisation,
        build=corpus.folder.dataset.identity["config"],
        about=corpus.folder.dataset.about,
        mapping=corpus.scheme.mapping,
        seen=tuple(sorted({*corpus.sides["train"]["subjects"], *corpus.sides["validation"]["subjects"]})),
    )


def _predictions(clips: Clips, logits: Tensor) -> Predictions:
    return Predictions(
        clips=tuple(key.decode() for key in clips.keys),
        speakers=tuple(clips.speakers[shard] for shard in clips.shard),
        labels=clips.labels,
        probabilities=logits.double().softmax(1).float().numpy(),
    )


def _begin(session: Session) -> None:
    """Write config.json, unless the run goes on."""
    path = session.folder / CONFIG_FILE
    if session.ranks.first and not path.is_file():
        atomic_write(path, (json.dumps(_told(session), indent=1, sort_keys=True) + "\n").encode())
    session.ranks.wait()


def _check_same(path: Path, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a run was begun with the same settings, as far as they may change a score."""
    try:
        found = dict(_settings(json.loads(path.read_bytes())["identity"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: found no configuration of a run; remove {path.parent} to begin anew") from error
    now = dict(_settings(identity))
    differ = [name for name in now if found.get(name) != now[name]]
    if differ:
        told = [_change(name, found.get(name), now[name]) for name in differ if name != _ALL]
        what = "; ".join(told) or "other shards, or other weights at the start"
        raise ConfigError(f"{path.parent}: was trained otherwise ({what[:500]}); {runs.ANOTHER_FOLDER}")


def _settings(identity: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted name."""
    for name, value in identity.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _change(name: str, before: Any, now: Any) -> str:
    """What became of a setting, of lists only what differs."""
    if isinstance(before, list) and isinstance(now, list) and set(before) != set(now):
        gone, new = ([str(one) for one in a if one not in b] for a, b in ((before, now), (now, before)))
        return f"{name}: " + ", ".join([*(f"{one} is gone" for one in gone), *(f"{one} is new" for one in new)])
    return f"{name} {before}, now {now}"


def _told(session: Session) -> dict[str, Any]:
    settings = session.config.to_json()
    identity = {name: value for name, value in settings.items() if name not in _INDIFFERENT}
    protocol_told = json.loads(json.dumps(asdict(session.protocol)))
    return {
        "config": settings,
        "identity": {**identity, **{f"protocol.{name}": value for name, value in protocol_told.items()}},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "ranks": session.ranks.count,
        "device": str(session.ranks.device),
    }


@contextmanager
def asked_to_stop(on_asked: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM are noted, and told, so that the step in hand ends first; a second Ctrl-C is as ever."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        on_asked()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_ranks(config: TrainConfig, ranks: Ranks) -> None:
    recipe = config.recipe
    if recipe.frozen and ranks.count > 1:
        raise ConfigError(f"recipe {recipe.name}: found {ranks.count} processes, expected one; start without torchrun")
    each = ranks.count * (2 if recipe.augmentation.mixup else 1)
    if recipe.batch % each:
        raise ConfigError(f"batch: found {recipe.batch} over {ranks.count} processes, expected a multiple of {each}")


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs


def _silent(message: str) -> None:
    del message

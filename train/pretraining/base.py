"""What every pre-training has, whatever its model and its objective: a run's folder, resumed and written as a whole."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn

from manifests.files import atomic_write
from manifests.index import load_rows
from manifests.joined_folds import WHOLE
from manifests.labels import NO_LABELS
from train.checkpoint import Checkpoints
from train.config import TrainConfig, settings_hash
from train.data.clip_table import ClipTable
from train.data.corpora import Corpora, open_corpora, open_whole
from train.data.fold_data import FoldData, open_fold
from train.data.loader import Loader
from train.data.shard_folder import Check
from train.distributed import Ranks
from train.fusion import Strategy
from train.lineage import Lineage
from train.metric_logger import MetricLogger
from train.optim import make_optimizer
from train.provenance import build_of, describe_build
from train.run_setup import ancestor_of, check_same_settings, check_unseen, config_record, describe_seen, wrap_model
from train.runs import RUN_CONFIG_FILE
from train.trainer import Objective, Trainer

#: Folder of the model in that of a pre-training.
MODEL = "model"


@dataclass(frozen=True, kw_only=True, eq=False)
class BasePretraining(ABC):
    """A pre-training that is ready to run."""

    result_file: ClassVar[str] = "pretraining.json"
    """Written last into its folder: it is finished."""

    config: TrainConfig
    data: FoldData
    """Without labels."""
    model: nn.Module
    """On the device."""
    origin: str
    """What it begins with, in words."""
    licence: str
    """Of the initial weights."""
    lineage: Lineage
    """Of the weights after this training."""
    ranks: Ranks
    log: Callable[[str], None]
    identity: dict[str, Any]
    """What must be equal to resume, beside the settings."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What is learned."""

    @abstractmethod
    def make_loader(self, clips: ClipTable, *, training: bool = False) -> Loader:
        """Batches of clips, in random order for training."""

    @abstractmethod
    def save_model(self, result: Mapping[str, Any]) -> None:
        """Save the model with its current weights, and what they are; `result` is of the run."""

    @abstractmethod
    def write_page(self, result: Mapping[str, Any]) -> None:
        """Write the page of the run, of which `result` is. Raises OSError."""

    def result(self) -> dict[str, Any]:
        """What is written of the finished run. All ranks call it together."""
        return {"epochs": self.epochs, "clips": len(self.data.training), "origin": self.origin}

    @property
    def kind(self) -> str:
        """Its folder within that of the corpora, without fold and seed."""
        return f"{self.config.strategy_name}/pretrain"

    @property
    def depth(self) -> int:
        """Blocks that the decay of learning rates counts."""
        depth: int = self.model.encoder.config.depth
        return depth

    @property
    def wrapped_model(self) -> nn.Module:
        """The model as training calls it: for several ranks, and compiled as configured."""
        return wrap_model(self.model, self.config, self.ranks)

    @property
    def folder(self) -> Path:
        """Folder of this run: `runs/<corpora>/<kind>`, with the fold and the seed, if any."""
        config = self.config
        fold = "" if config.fold == WHOLE else f"-{config.fold}"
        seed = f"-seed-{config.seed}" if config.seed else ""
        return Path(config.runs) / self.data.name / f"{self.kind}{fold}{seed}"

    @property
    def epochs(self) -> int:
        """Epochs to train."""
        assert self.config.recipe.epochs is not None
        return self.config.recipe.epochs

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this training."""
        return Checkpoints(folder=self.folder, lineage=self.lineage)

    @property
    def part(self) -> str:
        """There is one."""
        return ""

    @property
    def validates(self) -> bool:
        """Whether there are validation speakers."""
        return self.config.selection != "last"

    @property
    def validation_clips(self) -> ClipTable:
        """Clips of validation speakers, which there are."""
        return self.data.clips("validation")

    def make_trainer(self, logger: MetricLogger) -> Trainer:
        """The training loop of this run."""
        config, ranks, model = self.config, self.ranks, self.model
        return Trainer(
            model=model,
            compiled_model=self.wrapped_model,
            objective=self.objective,
            optimizer=make_optimizer(model, self.depth, config.recipe),
            config=config,
            train_loader=self.make_loader(self.data.training, training=True),
            val_loader=self.make_loader(self.validation_clips) if self.validates else None,
            ranks=ranks,
            checkpoints=self.checkpoints,
            logger=logger,
        )

    def is_finished(self) -> bool:
        """Whether the model is there. Raises ConfigError if it was trained with other settings."""
        started = self.checkpoints.started or (self.folder / self.result_file).is_file()
        check_same_settings(self.folder / RUN_CONFIG_FILE, self._config_record()["identity"], started=started)
        return (self.folder / self.result_file).is_file()

    def write_config(self) -> None:
        """Write config.json, unless the run is resumed."""
        path = self.folder / RUN_CONFIG_FILE
        if self.ranks.is_main and not (path.is_file() and self.checkpoints.started):
            atomic_write(path, (json.dumps(self._config_record(), indent=1, sort_keys=True) + "\n").encode())
        self.ranks.barrier()

    def _config_record(self) -> dict[str, Any]:
        return config_record(self.config, self.ranks, self.identity)


def open_for_pretraining(config: TrainConfig) -> Corpora:
    """The corpora of a pre-training: with their folds, or as a whole."""
    if config.fold == WHOLE:
        return open_whole(config.locations, validation=config.selection != "last")
    schemes = [config.fold_scheme] if isinstance(config.fold_scheme, str) else config.fold_scheme or ()
    return open_corpora(config.locations, schemes=schemes, allow_shared_speakers=config.allow_shared_speakers)


def open_unlabelled(config: TrainConfig, corpora: Corpora, strategy: Strategy) -> FoldData:
    """Every clip of a fold, without labels. Raises the errors of `open_fold`.

    The test speakers of `config.fold` are left out, or, of the fold `whole`, nobody, and a fifth validate.
    """
    return open_fold(
        corpora,
        config.fold,
        strategy=strategy,
        feature=config.feature,
        validation=config.selection != "last",
        label_scheme=NO_LABELS,
        unlabelled=True,
        check=cast(Check, config.check),
    )


def lineage_after(config: TrainConfig, data: FoldData, before: Lineage) -> Lineage:
    """The lineage of what a pre-training makes of weights. Raises ConfigError if they know speakers who are tested."""
    check_unseen(
        config, data, {part.name: before.known_speakers(part.name, load_rows(part.folder.path)) for part in data.parts}
    )
    lineage = before
    for part in data.trained_parts:
        lineage = lineage.after(ancestor_of(config, part, labels=None))
    return lineage


def identity_of(config: TrainConfig, data: FoldData, initial: str) -> dict[str, Any]:
    """What must be equal to resume; `initial` says what the model begins with, by hash or by its sizes."""
    return {
        "build": describe_build(build_of(data.parts)),
        "windows": describe_seen(replace(config.recipe, test_windows=1), data),
        "settings": settings_hash(config, initial, data.sha256),
    }

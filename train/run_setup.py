"""From a configuration to everything that a training needs, checked before anything is computed."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from manifests.files import atomic_write
from manifests.text import config_diff
from train import runs
from train.checkpoint import Checkpoints
from train.config import SELECTION, ConfigError, TrainConfig, settings_hash
from train.data.dataset import Check, FoldData, open_fold
from train.data.loader import CachedLoader, Loader
from train.data.sampler import ClipSampler
from train.data.transforms import CachedTransform, ClipTransform, NormalizationStats
from train.distributed import Ranks
from train.feature_cache import cached_features
from train.fusion import strategy_named
from train.metric_logger import MetricLogger
from train.models.videomae import CHANNELS, ENCODERS, Classifier, EncoderConfig
from train.models.weights import fingerprint, initialize_from, load_weights, save_classifier
from train.optim import make_optimizer
from train.provenance import Provenance
from train.recipes import NO_AUGMENTATION
from train.runs import MODEL, RUN_CONFIG_FILE, Run, RunProtocol
from train.trainer import Trainer, run_inference

#: Folder, among the runs, of features of frozen encoders.
FEATURES = ".features"
#: Most bytes of a side's inputs that are cached in memory.
MAX_CACHED_BYTES = 2**31
#: Settings that change no score, or only through what `settings_hash` covers.
_NOT_COMPARED = ("shards", "runs", "workers", "device", "micro_batches", "save_steps", "check", "compile", "weights")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSetup:
    """A run that is ready to be trained."""

    config: TrainConfig
    data: FoldData
    model: Classifier
    """On the device."""
    licence: str
    """Of the initial weights."""
    transform: ClipTransform
    protocol: RunProtocol
    ranks: Ranks
    log: Callable[[str], None]

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return Path(self.config.runs)

    @property
    def folder(self) -> Path:
        """Folder of this run."""
        return runs.run_folder(self.runs, self.data.name, self.config.strategy, self.config.fold)

    @property
    def trainable_module(self) -> nn.Module:
        """The part that is trained: all, or LayerNorm and Linear."""
        frozen = self.config.recipe.freeze_encoder
        return nn.Sequential(self.model.fc_norm, self.model.head) if frozen else self.model

    @property
    def input_transform(self) -> ClipTransform | CachedTransform:
        """The transform that belongs to `make_loader`."""
        recipe = self.config.recipe
        if not (recipe.freeze_encoder or recipe.cache_inputs):
            return self.transform
        return CachedTransform(classes=self.transform.classes, mixup=recipe.augmentation.mixup, seed=self.config.seed)

    def make_loader(self, side: str) -> Loader | CachedLoader:
        """Clips of `train`, in random order, `validation` or `test`; computes inputs that the recipe caches."""
        clips, recipe, device = self.data.clips(side), self.config.recipe, self.ranks.device
        sampler = ClipSampler(
            clips=len(clips),
            batch_size=recipe.batch // self.ranks.world_size,
            seed=self.config.seed,
            shuffle=side == "train",
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        options = {"workers": self.config.workers, "pin": device.type == "cuda", "prefetcher": self.data.prefetcher}
        if recipe.freeze_encoder:
            inputs = cached_features(
                self.model,
                self.data,
                clips,
                self.transform,
                cache=self.runs / FEATURES,
                ranks=self.ranks,
                workers=self.config.workers,
                on_shard=lambda name: self.log(f"features of {name}"),
            )
        elif recipe.cache_inputs:
            size = 4 * len(clips) * CHANNELS * math.prod(self.transform.input_size)
            if size > MAX_CACHED_BYTES:
                raise ConfigError(
                    f"recipe {recipe.name}: found {len(clips)} clips, {size / 1e9:.1f} GB of inputs to cache, "
                    f"expected at most {MAX_CACHED_BYTES / 1e9:.0f} GB; choose another --recipe"
                )
            loader = Loader(clips, replace(sampler, shuffle=False), **options)
            inputs = run_inference(nn.Identity(), loader, self.transform, self.ranks, self.config.micro_batches)
        else:
            return Loader(clips, sampler, **options)
        keys = tuple(key.decode() for key in clips.keys)
        return CachedLoader(inputs.to(device), torch.from_numpy(clips.labels), keys, sampler)

    def make_trainer(self, checkpoints: Checkpoints, logger: MetricLogger) -> Trainer:
        """The training loop of this run, its model wrapped for several ranks and compiled as configured."""
        config, ranks, model = self.config, self.ranks, self.trainable_module
        compiled, on_gpu = model, ranks.device.type == "cuda"
        if ranks.world_size > 1:
            compiled = DistributedDataParallel(model, device_ids=[ranks.device] if on_gpu else None)
        if not config.recipe.freeze_encoder and (config.compile == "on" or (config.compile == "auto" and on_gpu)):
            compiled.compile()
        return Trainer(
            model=model,
            compiled_model=compiled,
            optimizer=make_optimizer(model, self.model.encoder.config.depth, config.recipe),
            config=config,
            train_loader=self.make_loader("train"),
            val_loader=self.make_loader("validation"),
            transform=self.input_transform,
            ranks=ranks,
            checkpoints=checkpoints,
            logger=logger,
        )

    def is_finished(self) -> bool:
        """Whether the run was tested. Raises ConfigError or EvaluationError if it was trained with other settings."""
        path = self.folder / RUN_CONFIG_FILE
        if path.is_file():
            try:
                before = dict(json.loads(path.read_bytes())["identity"])
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise ConfigError(f"{path}: not a run's configuration; remove {path.parent} to start over") from error
            if changes := config_diff(before, self._config_record()["identity"]):
                # The hash over all settings shows that something changed, not what.
                known = [change for change in changes if not change.startswith("protocol.settings:")]
                what = ("; ".join(known) or "other shards, or other initial weights")[:500]
                raise ConfigError(f"{path.parent}: was trained with other settings ({what}); {runs.ANOTHER_FOLDER}")
        return runs.is_finished(self.folder, self.protocol)

    def write_config(self) -> None:
        """Write config.json, unless the run is resumed."""
        path = self.folder / RUN_CONFIG_FILE
        if self.ranks.is_main and not path.is_file():
            atomic_write(path, (json.dumps(self._config_record(), indent=1, sort_keys=True) + "\n").encode())
        self.ranks.barrier()

    def _config_record(self) -> dict[str, Any]:
        settings = self.config.to_json()
        identity = {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
        return {
            "config": settings,
            "identity": {**identity, "protocol": asdict(self.protocol)},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "ranks": self.ranks.world_size,
            "device": str(self.ranks.device),
        }

    def save_model(self, epoch: int) -> Run:
        """Save the classifier with its current weights, those of the selected epoch, and its provenance."""
        config, data = self.config, self.data
        run = Run(
            dataset=data.name,
            strategy=config.strategy,
            fold=config.fold,
            protocol=self.protocol,
            epoch=epoch,
            epochs=config.recipe.epochs,
        )
        provenance = Provenance(
            run=run,
            normalization=self.transform.normalization,
            build=data.folder.index.identity["config"],
            about=data.folder.index.about,
            mapping=data.label_scheme.mapping,
            seen_speakers=tuple(sorted({*data.sides["train"].subjects, *data.sides["validation"].subjects})),
        )
        if self.ranks.is_main:
            folder, classes = self.folder / MODEL, self.protocol.classes
            save_classifier(self.model, folder, classes=classes, licence=self.licence, details=asdict(provenance))
        return run


def prepare(config: TrainConfig, ranks: Ranks, log: Callable[[str], None]) -> TrainingSetup:
    """Open and check everything that a run needs. Raises the errors of `open_fold`, WeightsError, ConfigError."""
    recipe = config.recipe
    if recipe.freeze_encoder and ranks.world_size > 1:
        raise ConfigError(f"recipe {recipe.name}: found {ranks.world_size} processes, expected one, so no torchrun")
    multiple = ranks.world_size * (2 if recipe.augmentation.mixup else 1)
    if recipe.batch % multiple:
        raise ConfigError(
            f"batch: found {recipe.batch} over {ranks.world_size} processes, expected a multiple of {multiple}"
        )
    data = open_fold(
        config.shards,
        config.fold,
        strategy=config.strategy,
        feature=config.feature,
        fold_scheme=config.fold_scheme,
        label_scheme=config.label_scheme,
        check=cast(Check, config.check),
    )
    classes = tuple(data.label_scheme.classes)
    model, licence = make_classifier(config, len(classes))
    return TrainingSetup(
        config=config,
        data=data,
        model=model.to(ranks.device),
        licence=licence,
        transform=make_transform(config, data, model.encoder.config),
        protocol=RunProtocol(
            label_scheme=data.label_scheme.name,
            classes=classes,
            fold_scheme=data.fold_scheme,
            folds=data.folds,
            selection=SELECTION,
            recipe=recipe.name,
            encoder=config.encoder,
            weights=config.weights,
            feature=config.feature,
            settings=settings_hash(config, fingerprint(model), data.sha256),
        ),
        ranks=ranks,
        log=log if ranks.is_main else lambda _: None,
    )


def make_classifier(config: TrainConfig, classes: int) -> tuple[Classifier, str]:
    """A classifier on the CPU, pre-trained or random, the same for the same seed; and the licence of its weights.

    Raises WeightsError.
    """
    recipe, encoder = config.recipe, ENCODERS[config.encoder]
    weights = load_weights(config.weights, encoder) if config.weights else None
    torch.manual_seed(config.seed)
    encoder = weights.config if weights else encoder
    model = Classifier(
        encoder, classes, drop_rate=recipe.drop_path, gradient_checkpointing=recipe.gradient_checkpointing
    )
    if weights:
        initialize_from(model, weights)
    if recipe.freeze_encoder:
        model.freeze_encoder()
    return model, weights.licence if weights else "this project's own"


def make_transform(config: TrainConfig, data: FoldData, encoder: EncoderConfig) -> ClipTransform:
    """How batches of this run become input of the encoder."""
    augmentation = config.recipe.augmentation
    return ClipTransform(
        strategy=strategy_named(config.strategy),
        classes=len(data.label_scheme.classes),
        feature=config.feature,
        normalization=NormalizationStats.of(data.training.statistics),
        input_range=encoder.input_range,
        input_size=encoder.input,
        augmentation=None if augmentation == NO_AUGMENTATION else augmentation,
        seed=config.seed,
    )

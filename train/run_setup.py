"""From a configuration to everything that a training needs, checked before anything is computed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.files import atomic_write
from manifests.folds import dump_fold_file
from manifests.index import load_rows
from manifests.kinds import PAIRS
from manifests.tables import is_table
from manifests.text import config_diff, pluralize, shorten_list
from train import runs
from train.checkpoint import Checkpoints
from train.classification import Classification
from train.config import SELECTIONS, ConfigError, TrainConfig, recipe_identity, settings_hash
from train.data.clip_table import ClipTable
from train.data.corpora import corpus_indices, corpus_shares, open_corpora
from train.data.fold_data import FoldData, FoldPart, open_fold
from train.data.loader import CachedLoader, Loader
from train.data.sampler import ClipSampler, balanced_class_weights
from train.data.shard_folder import Check
from train.data.token_transform import TokenTransform
from train.data.transforms import CachedTransform, ClipTransform, NormalizationStats
from train.data.windows import EvenWindows, RandomWindows, Windows, describe_windows
from train.distributed import Ranks
from train.embedding_cache import cached_embeddings
from train.fusion import TOKEN_STRATEGIES, Strategy, strategy_named
from train.lineage import RANDOM, Ancestor, Lineage, sketch_recordings
from train.metric_logger import MetricLogger
from train.models.checkpoint_io import RUN_MODEL
from train.models.own_encoder import OwnEncoder, OwnEncoderConfig, build_encoder
from train.models.videomae import ENCODERS, Classifier, EncoderConfig, Head, encoder_name
from train.models.vq_mae_av import VqMaeConfig
from train.models.vq_mae_heads import EmotionClassifier
from train.models.vq_mae_weights import VqMaeWeights, save_vq_mae
from train.models.weights import Weights, fingerprint, initialize_from, load_weights, save_classifier
from train.optim import describe_trained, freeze_parameters, make_optimizer
from train.own_code import is_import_path, load_strategy
from train.provenance import UNNAMED_CROP, Provenance, about_of, build_of, describe_appearance, describe_build
from train.recipes import NO_AUGMENTATION, Recipe
from train.runs import RUN_CONFIG_FILE, Run, RunProtocol
from train.token_models import (
    lineage_with_tokenizers,
    make_emotion_classifier,
    model_name,
    tokenizer_of,
    variant_of,
)
from train.trainer import Trainer

#: Folder, among the runs, of features of frozen encoders.
FEATURES = ".features"
#: Folder, in that of a run, of a refit's checkpoints.
REFIT = "refit"
#: Settings that change no score, or only through what `settings_hash` or the protocol covers.
_NOT_COMPARED = (
    "shards",
    "tests",
    "runs",
    "workers",
    "device",
    "micro_batches",
    "save_steps",
    "check",
    "compile",
    "weights",
    "tokenizers",
    "loggers",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSetup:
    """A run that is ready to be trained."""

    config: TrainConfig
    data: FoldData
    model: Classifier | EmotionClassifier
    """On the device."""
    licence: str
    """Of the initial weights."""
    lineage: Lineage
    """Of the weights after this training."""
    transform: ClipTransform | TokenTransform
    protocol: RunProtocol
    ranks: Ranks
    log: Callable[[str], None]
    epochs: int
    """Epochs to train: the recipe's, or, of a refit, those up to the selected one."""
    validate: bool
    """Whether the best epoch is selected by validation; otherwise the last one is kept."""
    code: Mapping[str, str]
    """Import path of the user's own encoder or strategy -> SHA-256 of its file."""

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return Path(self.config.runs)

    @property
    def folder(self) -> Path:
        """Folder of this run."""
        config = self.config
        return runs.run_folder(self.runs, self.data.name, config.strategy_name, config.fold, config.seed)

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this training; a refit has a folder of its own."""
        return Checkpoints(folder=self.folder / self.part, lineage=self.lineage)

    @property
    def part(self) -> str:
        """`REFIT` if this is one, else ""."""
        return REFIT if self.config.selection == "refit" and not self.validate else ""

    @property
    def trainable_module(self) -> nn.Module:
        """The part that is trained: all, or LayerNorm and Linear."""
        frozen = self.config.recipe.freeze_encoder
        return Head(self.model.fc_norm, self.model.head) if frozen else self.model

    @property
    def input_transform(self) -> ClipTransform | TokenTransform | CachedTransform:
        """The transform of the clips that train and validate: their loaders give features of a frozen encoder."""
        frozen = self.config.recipe.freeze_encoder
        return CachedTransform(classes=self.transform.classes) if frozen else self.transform

    def make_loader(self, side: str) -> Loader | CachedLoader:
        """Clips of `train`, in random order, `validation` or `test`; computes the features of a frozen encoder.

        Those of `test` are always decoded, because they are also tested with parts of them missing.
        """
        clips, training = self.data.clips(side), side == "train"
        if clips.incomplete:
            left_out = pluralize(clips.incomplete, "clip")
            self.log(f"{side}: left out {left_out} without what {self.config.strategy} reads")
        if missing := int(np.count_nonzero(clips.missing)):
            self.log(f"{side}: {pluralize(missing, 'clip')} without a face or without sound")
        if side == "test" or not self.config.recipe.freeze_encoder:
            return Loader(
                clips,
                make_sampler(self.config, self.ranks, clips, training=training),
                face_px=self.transform.face_px,
                windows=windows_of(self.config, side),
                workers=self.config.workers,
                pin=self.ranks.device.type == "cuda",
                prefetcher=self.data.prefetcher,
            )
        inputs = cached_embeddings(
            self.model,
            self.data,
            clips,
            self.transform,
            windows=windows_of(self.config, "validation"),
            cache=self.runs / FEATURES,
            ranks=self.ranks,
            workers=self.config.workers,
            on_shard=lambda name: self.log(f"features of {name}"),
        )
        sampler = make_sampler(self.config, self.ranks, clips, training=training)
        return CachedLoader(inputs.to(self.ranks.device), torch.from_numpy(clips.labels), clips.ids, sampler)

    def make_trainer(self, logger: MetricLogger) -> Trainer:
        """The training loop of this run, its model wrapped for several ranks and compiled as configured."""
        config, ranks, model = self.config, self.ranks, self.trainable_module
        if config.recipe.freeze:
            self.log(describe_trained(self.model))
        return Trainer(
            model=model,
            compiled_model=wrap_model(model, config, ranks),
            optimizer=make_optimizer(model, self.model.encoder.config.depth, config.recipe),
            config=replace(config, recipe=config.recipe.shortened(self.epochs)),
            train_loader=self.make_loader("train"),
            val_loader=self.make_loader("validation") if self.validate else None,
            objective=Classification(
                transform=self.input_transform,
                recipe=config.recipe,
                seed=config.seed,
                noise_per_clip=getattr(model, "noise_per_clip", 0),
                class_weights=self._class_weights(),
            ),
            ranks=ranks,
            checkpoints=self.checkpoints,
            logger=logger,
        )

    def _class_weights(self) -> Tensor | None:
        """float32 [C] on the device; None where every clip counts the same."""
        if self.config.recipe.class_weights == "none":
            return None
        weights = balanced_class_weights(self.data.training.labels, len(self.protocol.classes))
        named = zip(self.protocol.classes, weights.tolist(), strict=True)
        self.log(f"class weights: {', '.join(f'{name} {weight:.3f}' for name, weight in named)}")
        return torch.from_numpy(weights).to(self.ranks.device)

    def is_finished(self) -> bool:
        """Whether the run was tested. Raises ConfigError or EvaluationError if it was trained with other settings."""
        check_same_settings(self.folder / RUN_CONFIG_FILE, self._config_record()["identity"], started=self._started)
        return runs.is_finished(self.folder, self.protocol)

    @property
    def _started(self) -> bool:
        """Whether anything of this run was trained: what failed before may be corrected."""
        return Checkpoints(folder=self.folder).started or (self.folder / runs.RESULT_FILE).is_file()

    def write_config(self) -> None:
        """Write config.json, and the folds of a table of one's own, unless the run is resumed."""
        path = self.folder / RUN_CONFIG_FILE
        if self.ranks.is_main and not (path.is_file() and self._started):
            several = self.data.corpora.several
            for part in self.data.parts if several or is_table(self.config.fold_scheme) else ():
                path_of_folds = self.folder / runs.folds_file(part.name if several else "")
                atomic_write(path_of_folds, dump_fold_file(part.corpus.file))
            atomic_write(path, (json.dumps(self._config_record(), indent=1, sort_keys=True) + "\n").encode())
        self.ranks.barrier()

    def _config_record(self) -> dict[str, Any]:
        code = {"code_sha256": dict(self.code)} if self.code else {}
        return config_record(self.config, self.ranks, {**code, "protocol": asdict(self.protocol)})

    def save_model(self, epoch: int) -> Run:
        """Save the classifier with its current weights, those of the selected epoch, and its provenance."""
        config, data = self.config, self.data
        run = Run(
            dataset=data.name,
            strategy=config.strategy_name,
            fold=config.fold,
            seed=config.seed,
            protocol=self.protocol,
            epoch=epoch,
            epochs=config.recipe.epochs,
            training_clips=len(data.training),
        )
        provenance = Provenance(
            run=run,
            normalization=self.transform.normalization,
            build=build_of(data.parts),
            about=about_of(data.trained_parts),
            mapping=data.mapping,
            test_flip=config.recipe.test_flip,
            test_crops=config.recipe.test_crops,
            test_crop_side=config.recipe.test_crop_side,
            window_seconds=config.recipe.window_seconds,
            test_windows=config.recipe.test_windows,
            strategy_path=self.transform.strategy.path,
            strategy_sha256=self.transform.strategy.sha256,
            tokenizer=tokenizer_of(data) if self.transform.strategy.tokens else "",
        )
        if self.ranks.is_main:
            known = {"classes": self.protocol.classes, "licence": self.licence, "lineage": self.lineage}
            known |= {"details": asdict(provenance)}
            if isinstance(self.model, EmotionClassifier):
                save_vq_mae(self.model, self.folder / RUN_MODEL, tokenizer=provenance.tokenizer, **known)
            else:
                save_classifier(self.model, self.folder / RUN_MODEL, **known)
        return run

    def refit(self, epochs: int) -> TrainingSetup:
        """The same training from the start, on training and validation clips, its schedule in `epochs` epochs.

        Raises DataError, ConfigError for an encoder whose file was changed meanwhile.
        """
        data = self.data.with_validation()
        model, _ = make_classifier(self.config, data, len(self.protocol.classes), lambda _: None)
        if model.encoder.config != self.model.encoder.config:
            raise ConfigError(f"{self.config.encoder}: its file was changed during the run; restore it and start again")
        return replace(
            self,
            data=data,
            model=model.to(self.ranks.device),
            transform=make_transform(self.config, data, model.encoder.config),
            epochs=epochs,
            validate=False,
        )


def prepare(config: TrainConfig, ranks: Ranks, log: Callable[[str], None]) -> TrainingSetup:
    """Open and check everything that a run needs. Raises the errors of `open_fold`, WeightsError, ConfigError."""
    recipe = config.recipe
    if recipe.pretraining or recipe.token_pretraining or recipe.tokenizers:
        command = "tokenizers" if recipe.tokenizers else "pretrain"
        raise ConfigError(
            f"recipe {recipe.name}: is for make {command} ({command}), which uses no labels; choose another"
        )
    if recipe.freeze_encoder and ranks.world_size > 1:
        raise ConfigError(f"recipe {recipe.name}: found {ranks.world_size} processes, expected one, so no torchrun")
    check_batch(recipe, ranks)
    strategy = load_strategy(config.strategy) if is_import_path(config.strategy) else strategy_named(config.strategy)
    schemes = [config.fold_scheme] if isinstance(config.fold_scheme, str) else config.fold_scheme or ()
    corpora = open_corpora(
        config.locations,
        schemes=schemes,
        tests=config.tests,
        allow_shared_speakers=config.allow_shared_speakers,
    )
    data = open_fold(
        corpora,
        config.fold,
        strategy=strategy,
        feature=config.feature,
        label_scheme=config.label_scheme,
        validation=config.selection != "last",
        check=cast(Check, config.check),
    )
    check_sound(strategy, data)
    config = replace(config, recipe=_fit_to_kind(recipe, data))
    recipe = config.recipe
    if recipe.training_share < 1:
        data = data.with_training_share(recipe.training_share, config.seed)
        log(f"trained on {pluralize(len(data.training), 'clip')}, {100 * recipe.training_share:g} % of each class")
    classes = tuple(data.label_scheme.classes)
    model, weights = make_classifier(config, data, len(classes), log)
    own = isinstance(model.encoder, OwnEncoder)
    before = _lineage_before(data, strategy, model, weights)
    built_with = build_of(data.parts)
    seen = {part.name: before.known_speakers(part.name, load_rows(part.folder.path)) for part in data.parts}
    check_unseen(config, data, seen)
    selection, notes = SELECTIONS[config.selection], describe_transfer(before, built_with)
    if config.selection != "last" and data.has_speakers("validation", seen):
        selection += ", whom the initial weights know"
        notes.append("know the validation speakers, who select the epoch; FIXED_EPOCHS=1 selects none")
    for note in notes:
        log(f"{config.weights or ('the tokenizers' if strategy.tokens else config.encoder)}: {note}")
    lineage = before
    for part in data.trained_parts:
        lineage = lineage.after(ancestor_of(config, part, labels=part.label_scheme.name))
    encoder = model.encoder.config
    if own:
        log(_describe_own(encoder, recipe))
    name = config.encoder or (model_name(encoder) if strategy.tokens else encoder_name(encoder))
    initial = (
        fingerprint(model.encoder) if weights or config.tokenizers else json.dumps(asdict(encoder), sort_keys=True)
    )
    if config.selection == "last":
        data = data.with_validation()
    # Of all folds alike: how many epochs a number of steps takes depends on the fold.
    code = {strategy.path: strategy.sha256} if strategy.path else {}
    code |= {encoder.path: encoder.sha256} if own else {}
    settings = settings_hash(config, initial, data.sha256, code)
    config = replace(config, encoder=name, recipe=recipe.for_clips(len(data.training)))
    transform = make_transform(config, data, encoder)
    stored_px, needed_px = data.members.side_px, transform.face_px
    if data.members.faces and stored_px < needed_px:
        log(f"{config.shards}: crops of {stored_px} pixels are enlarged to the encoder's {needed_px}")
    return TrainingSetup(
        config=config,
        data=data,
        model=model.to(ranks.device),
        licence=weights.licence if weights else f"that of {encoder.path}" if own else "this project's own",
        lineage=lineage,
        transform=transform,
        protocol=RunProtocol(
            label_scheme=data.label_scheme.name,
            classes=classes,
            fold_scheme=data.fold_scheme,
            folds=data.folds,
            shared_speakers=data.shared_speakers,
            selection=selection,
            recipe=recipe.name,
            encoder=str(variant_of(model, weights, recipe)) if strategy.tokens else name,
            weights=config.weights,
            lineage="; ".join([str(before), *notes]),
            supervision=(weights.lineage if weights else RANDOM).kind if strategy.tokens else before.kind,
            feature=config.feature,
            build=describe_build(built_with),
            windows=describe_seen(recipe, data),
            precision="bfloat16" if ranks.device.type == "cuda" else "float32",
            settings=settings,
        ),
        ranks=ranks,
        log=log if ranks.is_main else lambda _: None,
        epochs=config.recipe.epochs,
        validate=config.selection != "last",
        code=code,
    )


def _lineage_before(
    data: FoldData, strategy: Strategy, model: Classifier | EmotionClassifier, weights: Weights | VqMaeWeights | None
) -> Lineage:
    """What a classifier descends from before its training."""
    if strategy.tokens:
        return lineage_with_tokenizers(data, weights)
    if isinstance(model.encoder, OwnEncoder):
        return own_lineage(model.encoder.config)
    return weights.lineage if weights else RANDOM


def make_sampler(config: TrainConfig, ranks: Ranks, clips: ClipTable, *, training: bool) -> ClipSampler:
    """The clips of each step of this process, in random order for training."""
    recipe = config.recipe
    groups = {"balanced": clips.labels, "balanced-corpora": corpus_indices(clips)}
    return ClipSampler(
        clips=len(clips),
        batch_size=recipe.batch // ranks.world_size,
        seed=config.seed,
        shuffle=training,
        rank=ranks.rank,
        world_size=ranks.world_size,
        drop_last=recipe.drop_last and training,
        balanced_labels=groups.get(recipe.sampling) if training else None,
        class_shares=corpus_shares(clips, recipe.weights_of_corpora or {}) if training else (),
    )


def windows_of(config: TrainConfig, side: str) -> Windows:
    """Parts of a clip of `train`, `validation` or `test` that are seen: of shards with every frame."""
    recipe = config.recipe
    if side == "train":
        share, draws = recipe.augmentation.window_share, recipe.repeated_augmentation
        return RandomWindows(longest_seconds=recipe.window_seconds, share=share, seed=config.seed, count=draws)
    count = recipe.test_windows if side == "test" else 1
    return EvenWindows(longest_seconds=recipe.window_seconds, count=count)


def wrap_model(model: nn.Module, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """A model as training calls it: for several ranks, and compiled as configured."""
    wrapped, on_gpu = model, ranks.device.type == "cuda"
    if ranks.world_size > 1:
        options = {"find_unused_parameters": True} if config.has_own_encoder else {}
        wrapped = DistributedDataParallel(model, device_ids=[ranks.device] if on_gpu else None, **options)
    by_default = config.compile == "auto" and on_gpu and not config.has_own_encoder
    if not config.recipe.freeze_encoder and (config.compile == "on" or by_default):
        wrapped.compile()
    return wrapped


def check_sound(strategy: Strategy, data: FoldData) -> None:
    """Raise ConfigError if a strategy reads sound, and no training clip has any."""
    if strategy.windows and not strategy.tokens and data.training.statistics is None:
        raise ConfigError(
            f"{data.name}: found no training clip with sound, which {strategy.name} reads; choose STRATEGY=faces"
        )


def check_batch(recipe: Recipe, ranks: Ranks) -> None:
    """Raise ConfigError for a batch that the processes cannot share."""
    multiple = ranks.world_size * (2 if recipe.augmentation.mixes else 1)
    if recipe.batch % multiple:
        raise ConfigError(
            f"batch: found {recipe.batch} over {ranks.world_size} processes, expected a multiple of {multiple}"
        )


def config_record(config: TrainConfig, ranks: Ranks, more: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a run's config.json; its `identity`, with `more`, must be equal to resume."""
    settings = config.to_json()
    identity = {name: value for name, value in settings.items() if name not in _NOT_COMPARED}
    return {
        "config": settings,
        "identity": {**identity, "recipe": recipe_identity(config.recipe), **more},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "ranks": ranks.world_size,
        "device": str(ranks.device),
    }


def check_same_settings(path: Path, identity: Mapping[str, Any], *, started: bool) -> None:
    """Raise ConfigError if the run that has this config.json, if any, was started and with other settings."""
    if not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_bytes())["identity"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a run's configuration; remove {path.parent} to start over") from error
    if started and (changes := config_diff(before, identity)):
        # The hash over all settings shows that something changed, not what; a setting is named once.
        names = {change.partition(":")[0] for change in changes}
        repeated = {"settings", "protocol.settings", *(f"protocol.{name}" for name in names)}
        known = [change for change in changes if change.partition(":")[0] not in repeated]
        what = "; ".join(known) or "other shards, or other initial weights"
        raise ConfigError(f"{path.parent}: was trained with other settings ({what}); {runs.ANOTHER_FOLDER}")


def _fit_to_kind(recipe: Recipe, data: FoldData) -> Recipe:
    """The recipe as these shards can be trained with. Raises ConfigError for windows of pairs, which have one."""
    if data.members.kind != PAIRS:
        return recipe
    if recipe.sees_parts:
        raise ConfigError(
            f"recipe {recipe.name}: found window_seconds = {recipe.window_seconds:g}, test_windows = "
            f"{recipe.test_windows} with shards of pairs, which show whole clips; expected 0 and 1, or shards with "
            "every frame, which FRAMES=all (--frames all) builds"
        )
    return recipe.without_windows()


def describe_seen(recipe: Recipe, data: FoldData) -> str | None:
    """Which part of clips is seen, in words; None of pairs, which show whole clips."""
    if data.members.kind == PAIRS:
        return None
    drawn = not recipe.freeze_encoder  # its features are computed once, of the middle window
    return describe_windows(recipe.window_seconds, recipe.augmentation.window_share, recipe.test_windows, drawn=drawn)


def ancestor_of(config: TrainConfig, part: FoldPart, *, labels: str | None) -> Ancestor:
    """What whoever uses the result as initial weights must know of this training on one corpus.

    `labels` is the label scheme, None if no labels are used.
    """
    rows, about = load_rows(part.folder.path), part.folder.index.about
    return Ancestor(
        dataset=part.name,
        speakers=tuple(sorted(part.trained)),
        labels=labels,
        strategy=config.strategy_name,
        build=describe_appearance(part.folder.index.identity["config"]),
        licence=str(about.get("licence", "not stated")),
        recordings=sketch_recordings(row.sha256 for row in rows if row.shard and row.speaker in part.trained),
        corpora=len(config.locations),
    )


def own_lineage(encoder: OwnEncoderConfig) -> Lineage:
    """Of an encoder of the user's own, which may have loaded any weights."""
    origin = f"own encoder {encoder.path} (SHA-256 {encoder.sha256}), with unknown supervision on unknown data"
    return Lineage(origin=origin, supervision="unknown")


def _describe_own(encoder: OwnEncoderConfig, recipe: Recipe) -> str:
    decay = (
        f"layer decay over its {encoder.depth} blocks" if encoder.depth else "no list `blocks`: no layer decay in it"
    )
    ignored = "; drop_path of the recipe is not applied to it" if recipe.drop_path else ""
    return f"{encoder.path}: {encoder.width} features of 16x{encoder.side}x{encoder.side}; {decay}{ignored}"


def check_unseen(config: TrainConfig, data: FoldData, seen: Mapping[str, frozenset[str]]) -> None:
    """Raise ConfigError if the initial weights have seen, in any training, a speaker who is tested.

    `seen` is corpus -> speakers. Of codes it has those of the tokenizers that made them, which are named first: where
    these have seen a speaker who is tested, no other weights help.
    """
    if not any((met := _tested_speakers(data, seen)).values()):
        return
    source, advice = config.weights, "choose other --weights"
    if config.strategy in TOKEN_STRATEGIES:
        made = lineage_with_tokenizers(data, None)
        before = {part.name: made.known_speakers(part.name, load_rows(part.folder.path)) for part in data.parts}
        if any((of_codes := _tested_speakers(data, before)).values()):
            fold = "" if data.corpora.tests else f" FOLD={config.fold}"
            again = "make tokens and make pretrain" if config.weights else "make tokens"
            met, source = of_codes, "the tokenizers of these codes"
            advice = f"train others with make tokenizers{fold}, then {again}"
    known = " and ".join(f"{shorten_list(speakers)} of {name}" for name, speakers in met.items() if speakers)
    if data.corpora.tests:
        raise ConfigError(
            f"{source}: were trained or validated on {known}, which is tested as a whole; expected weights that have "
            f"seen none of its speakers: {advice}, or test another corpus"
        )
    fitting = [
        fold
        for fold in data.folds
        if not any(seen[part.name] & {*part.corpus.file.folds[fold]["test"].subjects} for part in data.parts)
    ]
    others = f"fold {shorten_list(fitting)} of {data.fold_scheme}" if fitting else f"no fold of {data.fold_scheme}"
    raise ConfigError(
        f"{source}: were trained or validated on {known}, whom fold {config.fold} tests; "
        f"expected unseen speakers: these weights can be tested on {others}, or {advice}"
    )


def _tested_speakers(data: FoldData, seen: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Corpus -> those of some speakers, by corpus, who are tested."""
    return {part.name: sorted(seen[part.name] & {*part.sides["test"].subjects}) for part in data.parts}


def describe_transfer(lineage: Lineage, build: Mapping[str, Any]) -> list[str]:
    """What a user and a report must know of initial weights, a line each: how else their faces were cropped."""
    notes = []
    appearance = describe_appearance(build)
    before = [each.build for each in lineage.ancestors] or ([f"crop {lineage.crop}"] if lineage.crop else [])
    here = appearance if lineage.ancestors else f"crop {build.get('crop', UNNAMED_CROP)}"
    for other in dict.fromkeys(before):
        if other != here:
            notes.append(f"were trained on clips with {other}, here {here}: such weights transfer badly")
    if lineage.supervision in ("supervised", "unknown") and "unknown" in lineage.origin:
        notes.append(f"{lineage.origin}: they may have been trained on speakers of the test fold")
    return notes


def make_classifier(
    config: TrainConfig, data: FoldData, classes: int, log: Callable[[str], None]
) -> tuple[Classifier | EmotionClassifier, Weights | VqMaeWeights | None]:
    """A classifier on the CPU, pre-trained or random, the same for the same seed; and its initial weights.

    Raises WeightsError, ConfigError.
    """
    recipe = config.recipe
    if recipe.vq_mae:
        return make_emotion_classifier(config, data, classes, log)
    if config.has_own_encoder:
        return _own_classifier(config, classes), None
    encoders = [ENCODERS[config.encoder]] if config.encoder else [*ENCODERS.values()]
    weights = load_weights(config.weights, *encoders) if config.weights else None
    torch.manual_seed(config.seed)
    encoder = weights.config if weights else encoders[0]
    model = Classifier(
        encoder,
        classes,
        drop_rate=recipe.drop_path,
        head_dropout=recipe.head_dropout,
        head_init_scale=recipe.head_init_scale,
        gradient_checkpointing=recipe.gradient_checkpointing,
    )
    if weights:
        initialize_from(model, weights)
    if recipe.freeze_encoder:
        model.freeze_encoder()
    freeze_parameters(model, recipe.freeze)
    return model, weights


def _own_classifier(config: TrainConfig, classes: int) -> Classifier:
    """The same with the user's own encoder. Raises OwnCodeError."""
    recipe = config.recipe
    torch.manual_seed(config.seed)
    encoder, _ = build_encoder(str(config.encoder), gradient_checkpointing=recipe.gradient_checkpointing)
    options = {"head_dropout": recipe.head_dropout, "head_init_scale": recipe.head_init_scale}
    model = Classifier(encoder.config, classes, encoder=encoder, **options)
    if recipe.freeze_encoder:
        model.freeze_encoder()
    freeze_parameters(model, recipe.freeze)
    return model


def make_transform(
    config: TrainConfig, data: FoldData, encoder: EncoderConfig | VqMaeConfig
) -> ClipTransform | TokenTransform:
    """How batches of this run become input of the encoder."""
    augmentation = config.recipe.augmentation
    if isinstance(encoder, VqMaeConfig):
        return TokenTransform(
            strategy=strategy_named(config.strategy),
            classes=len(data.label_scheme.classes),
            model=encoder,
            augmentation=augmentation,
            repeats=config.recipe.repeated_augmentation,
            seed=config.seed,
        )
    return ClipTransform(
        strategy=strategy_named(config.strategy_name),
        classes=len(data.label_scheme.classes),
        feature=config.feature,
        normalization=NormalizationStats.of(data.training.statistics),
        input_range=encoder.input_range,
        input_size=encoder.input,
        augmentation=None if augmentation == NO_AUGMENTATION else augmentation,
        repeats=config.recipe.repeated_augmentation,
        seed=config.seed,
    )

"""From a configuration to everything that a pre-training needs, checked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from manifests.errors import UserError
from manifests.kinds import PAIRS
from manifests.text import pluralize
from train.config import ConfigError, TrainConfig
from train.data.clip_table import ClipTable
from train.data.corpora import Corpora
from train.data.fold_data import FoldData, open_fold
from train.data.loader import Loader
from train.data.masks import TokenLayout
from train.data.transforms import ClipTransform
from train.distributed import Ranks
from train.fusion import Strategy, strategy_named
from train.lineage import RANDOM
from train.models.mae import MaskedAutoencoder, decoder_for
from train.models.mae_weights import PretrainedWeights, initialize_autoencoder, load_pretrained, save_autoencoder
from train.models.videomae import ENCODERS, encoder_name
from train.models.weights import fingerprint
from train.own_code import is_import_path
from train.pretraining.base import (
    MODEL,
    BasePretraining,
    identity_of,
    lineage_after,
    open_for_pretraining,
    open_unlabelled,
)
from train.pretraining.cross_modal import measure_cross_modal
from train.pretraining.hidden_patches import measure_hidden_patches
from train.pretraining.page import write_page
from train.pretraining.probe import linear_probe, nearest_neighbours
from train.pretraining.reconstruction import PROBES, Reconstruction, encode_clips
from train.pretraining.vq_mae import prepare_vq_mae
from train.provenance import build_of
from train.recipes import Pretraining, Recipe
from train.run_setup import (
    check_batch,
    check_sound,
    describe_transfer,
    make_sampler,
    make_transform,
    windows_of,
)

#: Most clips of either side that probes and measures look at.
MEASURED_CLIPS = 2000


@dataclass(frozen=True, kw_only=True)
class ProbeClips:
    """Labelled clips that say, during a pre-training, how well its features tell classes apart."""

    train: ClipTable
    test: ClipTable
    """Of validation speakers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PretrainingSetup(BasePretraining):
    """A pre-training of a video encoder."""

    model: MaskedAutoencoder
    settings: Pretraining
    """Of its recipe."""
    probe_clips: ProbeClips | None
    """None for corpora without labels, or without validation speakers."""
    transform: ClipTransform

    @property
    def objective(self) -> Reconstruction:
        """What is learned."""
        encoder = self.model.encoder.config
        return Reconstruction(
            transform=self.transform,
            layout=TokenLayout.of(self.transform.strategy, encoder),
            masks=self.settings,
            patch=encoder.patch,
            motion=self.settings.motion,
            seed=self.config.seed,
            probe=self._probe if self.probe_clips else None,
        )

    def make_loader(self, clips: ClipTable, *, training: bool = False) -> Loader:
        """As of every pre-training."""
        return Loader(
            clips,
            make_sampler(self.config, self.ranks, clips, training=training),
            face_px=self.transform.face_px,
            windows=windows_of(self.config, "train" if training else "validation"),
            workers=self.config.workers,
            pin=self.ranks.device.type == "cuda",
            prefetcher=self.data.prefetcher,
        )

    def _probe(self, model: nn.Module) -> dict[str, float]:
        """Accuracies on labelled clips of validation speakers; labels change nothing that is learned."""
        assert self.probe_clips
        tables = (self.probe_clips.train, self.probe_clips.test)
        features = [
            encode_clips(
                cast(MaskedAutoencoder, model),
                self.make_loader(replace(table, labels=np.zeros_like(table.labels))),
                self.transform,
                self.ranks,
                self.config.micro_batches,
            )
            for table in tables
        ]
        labels = [torch.from_numpy(table.labels) for table in tables]
        measures = (linear_probe, nearest_neighbours)
        found = [measure(features[0], labels[0], features[1], labels[1]) for measure in measures]
        return dict(zip(PROBES, found, strict=True))

    def result(self) -> dict[str, Any]:
        """With how well what is hidden of validation speakers' clips is painted, beside what needs no learning."""
        if not self.validates:
            return super().result()
        self.model.eval()
        training, clips = _some(self.data.training), _some(self.data.clips("validation"))
        measured = (self.objective, self.model, self.make_loader)
        patches = measure_hidden_patches(*measured, training, clips, self.ranks, self.config.micro_batches)
        modality = measure_cross_modal(*measured, clips, self.ranks, self.config.micro_batches)
        return {
            **super().result(),
            "hidden_patches": {name: asdict(each) for name, each in patches.items()},
            "hidden_modality": {name: asdict(each) for name, each in modality.items()},
        }

    def save_model(self, result: Mapping[str, Any]) -> None:  # noqa: ARG002
        """As of every pre-training."""
        details = {
            "pretraining": {"strategy": self.config.strategy_name, **asdict(self.settings)},
            "normalization": asdict(self.transform.normalization),
            "build": build_of(self.data.parts),
        }
        folder = self.folder / MODEL
        save_autoencoder(self.model, folder, licence=self.licence, lineage=self.lineage, details=details)

    def write_page(self, result: Mapping[str, Any]) -> None:
        """As of every pre-training."""
        write_page(self, result)


def prepare_pretraining(config: TrainConfig, ranks: Ranks, log: Callable[[str], None]) -> BasePretraining:
    """Open and check everything that a pre-training needs. Raises the errors of `open_fold`, WeightsError, ConfigError.

    `config.fold` is a fold whose test speakers are left out, or `whole` for all speakers, a fifth of whom validate;
    with the selection `last` validation speakers are trained on, too.
    """
    recipe = config.recipe
    if recipe.token_pretraining:
        return prepare_vq_mae(config, ranks, log)
    if recipe.pretraining is None:
        raise ConfigError(f"recipe {recipe.name}: found no table pretraining, expected a recipe such as pretrain-fused")
    if config.has_own_encoder or is_import_path(config.strategy):
        raise ConfigError("pretrain: found code of your own, expected a built-in encoder and strategy")
    check_batch(recipe, ranks)
    strategy = strategy_named(config.strategy)
    corpora = open_for_pretraining(config)
    data = open_unlabelled(config, corpora, strategy)
    config = replace(config, recipe=_fit_to_kind(recipe, data, log))
    probe_clips = _open_probe(corpora, config, strategy, log) if config.selection != "last" else None
    if config.selection == "last":
        data = data.with_validation()
    check_sound(strategy, data)
    model, weights, origin = make_autoencoder(config, recipe.pretraining)
    before = weights.encoder.lineage if weights else RANDOM
    lineage = lineage_after(config, data, before)
    for note in describe_transfer(before, build_of(data.parts)):
        log(f"{config.weights}: {note}")
    encoder = model.encoder.config
    transform = replace(make_transform(config, data, encoder), classes=0)
    objective_sizes = TokenLayout.of(strategy, encoder).sizes(recipe.pretraining)
    log(
        f"{pluralize(len(data.training), 'clip')} of {data.name}; {encoder.tokens} tokens a clip, of which "
        f"{objective_sizes[0]} are visible and {objective_sizes[1]} are predicted"
    )
    initial = fingerprint(model) if weights else json.dumps([asdict(encoder), asdict(model.decoder.config)])
    config = replace(
        config,
        encoder=config.encoder or encoder_name(encoder),
        recipe=config.recipe.for_clips(len(data.training)),
    )
    return PretrainingSetup(
        config=config,
        settings=recipe.pretraining,
        data=data,
        probe_clips=probe_clips,
        model=model.to(ranks.device),
        origin=origin,
        licence=weights.encoder.licence if weights else "this project's own",
        lineage=lineage,
        transform=transform,
        ranks=ranks,
        log=log if ranks.is_main else lambda _: None,
        identity=identity_of(config, data, initial),
    )


def make_autoencoder(
    config: TrainConfig, settings: Pretraining
) -> tuple[MaskedAutoencoder, PretrainedWeights | None, str]:
    """An autoencoder on the CPU, its initial weights, if any, and where it begins, in words. Raises WeightsError."""
    encoders = [ENCODERS[config.encoder]] if config.encoder else [*ENCODERS.values()]
    weights = load_pretrained(config.weights, *encoders) if config.weights else None
    torch.manual_seed(config.seed)
    encoder = replace(weights.encoder.config, final_norm=False) if weights else encoders[0]
    decoder = decoder_for(encoder, settings.decoder_depth)
    model = MaskedAutoencoder(encoder, decoder, gradient_checkpointing=config.recipe.gradient_checkpointing)
    if settings.within_instants:
        layout = TokenLayout.of(strategy_named(config.strategy), encoder)
        model.begin_within_instants(torch.from_numpy(layout.instants.ravel()))
    if weights is None:
        return model, None, "random weights"
    return model, weights, f"{config.weights}: {initialize_autoencoder(model, weights)}"


def _open_probe(
    corpora: Corpora, config: TrainConfig, strategy: Strategy, log: Callable[[str], None]
) -> ProbeClips | None:
    """Clips with a class of training and validation speakers; None, after a line, where corpora have none in common.

    Raises what `open_fold` does if a label scheme was asked for.
    """
    try:
        data = open_fold(
            corpora, config.fold, strategy=strategy, feature=config.feature, label_scheme=config.label_scheme
        )
        train, test = data.training, data.clips("validation")
    except UserError as error:
        if config.label_scheme is not None:
            raise
        log(f"no probe of the features: {error}")
        return None
    train, test = _some(train), _some(test)
    if set(np.unique(test.labels)) - set(np.unique(train.labels)):
        log("no probe of the features: validation speakers have classes that training speakers have not")
        return None
    return ProbeClips(train=train, test=test)


def _some(clips: ClipTable) -> ClipTable:
    """At most MEASURED_CLIPS, always the same. Random ones: the order of a corpus is often periodic in its classes."""
    if len(clips) <= MEASURED_CLIPS:
        return clips
    return clips.take(np.sort(np.random.default_rng(0).permutation(len(clips))[:MEASURED_CLIPS]))


def _fit_to_kind(recipe: Recipe, data: FoldData, log: Callable[[str], None]) -> Recipe:
    """The recipe as these shards can be trained with; pairs show whole clips."""
    if data.members.kind != PAIRS:
        return recipe
    if recipe.sees_parts or recipe.augmentation.window_share != (1.0, 1.0):
        log(f"recipe {recipe.name}: shards of pairs show whole clips, so that its windows in time are not used")
    return replace(recipe, window_seconds=0.0, test_windows=1).without_windows()

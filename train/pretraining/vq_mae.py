"""From a configuration to everything that the pre-training of a VQ-MAE-AV needs, checked before it begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.text import pluralize
from train.config import ConfigError, TrainConfig
from train.data.clip_table import ClipTable
from train.data.loader import Loader
from train.distributed import Ranks
from train.fusion import strategy_named
from train.models.vq_mae_av import VqMae
from train.models.vq_mae_weights import initialize_pretraining, save_vq_mae
from train.models.weights import fingerprint
from train.pretraining.base import (
    MODEL,
    BasePretraining,
    identity_of,
    lineage_after,
    open_for_pretraining,
    open_unlabelled,
)
from train.pretraining.hidden_codes import (
    RETRIEVALS,
    RETRIEVED_AMONG,
    HiddenCodesObjective,
    Measures,
    most_frequent_codes,
    speaker_interval,
)
from train.pretraining.vq_mae_page import write_page
from train.provenance import build_of
from train.recipes import TokenPretraining
from train.run_setup import check_batch, describe_transfer, make_sampler, windows_of
from train.token_models import (
    EARLIER,
    check_tokenizers,
    lineage_with_tokenizers,
    load_codebooks,
    model_name,
    model_shape,
    pretrainings_of,
    tokenizer_of,
)

#: Random training clips whose codes are counted, at most: the most frequent code of each place needs no more.
COUNTED_CLIPS = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class VqMaePretraining(BasePretraining):
    """A pre-training of a VQ-MAE-AV."""

    model: VqMae
    settings: TokenPretraining
    """Of its recipe."""
    earlier: Sequence[Mapping[str, Any]]
    """Settings of the pre-trainings that made the initial weights, the oldest first."""

    @property
    def objective(self) -> HiddenCodesObjective:
        """What is learned."""
        return HiddenCodesObjective(
            shape=self.model.config,
            settings=self.settings,
            ranks=self.ranks,
            most=self.config.recipe.batch // self.ranks.world_size,
            make_loader=self.make_loader,
            common_codes=lambda: self.common_codes,
            seed=self.config.seed,
        )

    @cached_property
    def common_codes(self) -> dict[str, Tensor]:
        """What `most_frequent_codes` finds in training clips, at most `COUNTED_CLIPS`, in windows of a validation."""
        clips = self.data.training
        if len(clips) > COUNTED_CLIPS:
            drawn = np.random.default_rng(self.config.seed).permutation(len(clips))[:COUNTED_CLIPS]
            clips = clips.take(np.sort(drawn))  # as they are stored
        return most_frequent_codes(self.make_loader(clips), self.model.config, self.ranks)

    def make_loader(self, clips: ClipTable, *, training: bool = False) -> Loader:
        """As of every pre-training."""
        return Loader(
            clips,
            make_sampler(self.config, self.ranks, clips, training=training),
            windows=windows_of(self.config, "train" if training else "validation"),
            workers=self.config.workers,
            pin=self.ranks.device.type == "cuda",
            prefetcher=self.data.prefetcher,
        )

    @property
    def validation_clips(self) -> ClipTable:
        """As of every pre-training: those that have all modalities of the model. Raises ConfigError for none."""
        clips = super().validation_clips
        if len(self.model.config.shapes) == 1:  # others are not in the table
            return clips
        complete = clips.take(np.flatnonzero(clips.missing == 0))
        if not len(complete):
            raise ConfigError(
                f"{self.data.name}: found no clip of validation speakers with sound and a face, expected some; "
                "choose another fold, or FIXED_EPOCHS=1"
            )
        return complete

    def measure(self) -> tuple[Measures, ClipTable] | None:
        """What the model has learned, of validation speakers; None without any."""
        if not self.validates:
            return None
        clips = self.validation_clips
        return self.objective.measure(self.model, self.make_loader(clips)), clips

    def result(self) -> dict[str, Any]:
        """With scores of validation speakers, and whose faces were found."""
        result = super().result()
        if (found := self.measure()) is None:
            return result
        measures, clips = found
        result["validation"] = measures.scores()
        speakers = clips.clip_speakers
        for measure, near in RETRIEVALS.items() if measures.pooled else ():
            retrieved = measures.retrieved(near=near)
            right = {name: [0, 0] for name in sorted(set(speakers))}
            for name, each in zip(speakers, retrieved.tolist(), strict=True):
                right[name] = [right[name][0] + each, right[name][1] + 1]
            result[measure] = {
                "among": min(RETRIEVED_AMONG, len(clips)),
                "speakers": right,
                "interval": speaker_interval(retrieved, speakers),
            }
        return result

    def save_model(self, result: Mapping[str, Any]) -> None:  # noqa: ARG002
        """As of every pre-training."""
        details = {
            "pretraining": {"strategy": self.config.strategy_name, **asdict(self.settings), EARLIER: self.earlier},
            "build": build_of(self.data.parts),
        }
        known = {"licence": self.licence, "lineage": self.lineage, "tokenizer": tokenizer_of(self.data)}
        save_vq_mae(self.model, self.folder / MODEL, **known, details=details)

    def write_page(self, result: Mapping[str, Any]) -> None:
        """As of every pre-training."""
        write_page(self, result)


def prepare_vq_mae(config: TrainConfig, ranks: Ranks, log: Callable[[str], None]) -> VqMaePretraining:
    """As `train.pretraining.setup.prepare_pretraining`, for recipes with a table `token_pretraining`."""
    recipe, strategy = config.recipe, strategy_named(config.strategy)
    settings = recipe.token_pretraining
    assert settings is not None
    check_batch(recipe, ranks)
    data = open_unlabelled(config, open_for_pretraining(config), strategy)
    if config.selection == "last":
        data = data.with_validation()
    shape, weights = model_shape(config)
    if settings.contrastive and len(shape.shapes) == 1:
        if not settings.generative:
            raise ConfigError(f"{config.strategy}: found the contrastive loss only, which takes both modalities")
        log(f"{config.strategy}: has no contrastive loss, which takes both modalities")
        settings = replace(settings, contrastive=0.0)
    if settings.contrastive and config.micro_batches > 1:
        raise ConfigError(
            f"micro_batches: found {config.micro_batches}, expected 1: the contrastive loss compares all clips of a "
            "step; use more processes, or --set token_pretraining.contrastive=0"
        )
    torch.manual_seed(config.seed)
    losses = {"generative": settings.generative > 0, "contrastive": settings.contrastive > 0}
    model = VqMae(shape, **losses, separate=settings.separate)
    if settings.within_instants:
        model.begin_within_instants()
    check_tokenizers(config, data, weights)
    origin = "random weights"
    if weights:
        origin = f"{config.weights}: {initialize_pretraining(model, weights)}"
        for note in describe_transfer(weights.lineage, build_of(data.parts)):
            log(f"{config.weights}: {note}")
    elif config.tokenizers:
        load_codebooks(config, data, model.encoder, model.decoder)
        origin += " and the codebooks of the tokenizers"
    lineage = lineage_after(config, data, lineage_with_tokenizers(data, weights))
    tokens = " and ".join(f"{each.tokens} of {name}" for name, each in shape.shapes.items())
    log(f"{pluralize(len(data.training), 'clip')} of {data.name}; {tokens} tokens a clip; {shape}")
    initial = fingerprint(model) if weights or config.tokenizers else json.dumps(asdict(shape), sort_keys=True)
    config = replace(config, encoder=config.encoder or model_name(shape), recipe=recipe.for_clips(len(data.training)))
    return VqMaePretraining(
        config=config,
        settings=settings,
        earlier=pretrainings_of(weights) if weights else (),
        data=data,
        model=model.to(ranks.device),
        origin=origin,
        licence=weights.licence if weights else "this project's own",
        lineage=lineage,
        ranks=ranks,
        log=log if ranks.is_main else lambda _: None,
        identity=identity_of(config, data, initial),
    )

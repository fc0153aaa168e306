"""From a configuration to a VQ-MAE-AV: its shape, the weights that it begins with, and what these descend from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch

from manifests.records import SchemaError, from_json
from manifests.tokens import TokenSource, token_source
from train.config import ConfigError, TrainConfig
from train.data.fold_data import FoldData, FoldPart
from train.lineage import RANDOM, Lineage
from train.models.checkpoint_formats import WeightsError
from train.models.tokenizer_files import load_tokenizers
from train.models.vq_mae_av import AUDIO, MODALITIES, MODELS, VISUAL, Decoder, Encoder, VqMaeConfig
from train.models.vq_mae_heads import EmotionClassifier
from train.models.vq_mae_weights import VqMaeWeights, initialize_classifier, load_vq_mae
from train.optim import freeze_parameters
from train.recipes import Recipe, TokenPretraining
from train.token_variants import Variant, describe_fusion, pretraining_changes, tuning_changes

#: Name of a strategy -> modalities that it has not.
_WITHOUT = {"vq-mae-a": VISUAL, "vq-mae-v": AUDIO}
_LOSSES = ("generative", "contrastive")
#: Key, in the settings of a pre-training, of those of the pre-trainings that it continued.
EARLIER = "earlier"


def model_shape(config: TrainConfig) -> tuple[VqMaeConfig, VqMaeWeights | None]:
    """The shape that a configuration names, or that of its weights. Raises WeightsError, ConfigError."""
    settings = config.recipe.vq_mae
    assert settings is not None
    weights = load_vq_mae(config.weights) if config.weights else None
    chosen = {}
    if settings.depth is not None:
        chosen["depth"] = settings.depth
    if settings.fusion is not None:
        chosen["encoder_fusion"], _, chosen["decoder_fusion"] = settings.fusion.partition("-")
    if weights:
        shape = weights.config
        if shape.strategy != config.strategy:
            raise WeightsError(f"{weights.source}: found {shape.strategy}, expected weights of {config.strategy}")
        if config.encoder is not None and model_name(shape) != config.encoder:
            raise WeightsError(f"{weights.source}: found {shape}, expected {config.encoder}; leave ENCODER= out")
        if (different := replace(shape, **chosen)) != shape:
            raise WeightsError(f"{weights.source}: found {shape}, expected {different}; leave DEPTH= and FUSION= out")
        return shape, weights
    without = _WITHOUT.get(config.strategy)
    try:
        return replace(MODELS[config.encoder or ""], **chosen, **({without: None} if without else {})), None
    except ValueError as error:
        raise ConfigError(f"{config.strategy}: {error}") from error


def model_name(shape: VqMaeConfig) -> str:
    """Name in `MODELS` of the model of these tubes and this width. Raises WeightsError if there is none."""
    for name, known in MODELS.items():
        same = all(getattr(shape, each) in (None, getattr(known, each)) for each in MODALITIES)
        if same and shape.width == known.width:
            return name
    raise WeightsError(f"model: found {shape} in other tubes, expected those of {', '.join(MODELS)}")


def make_emotion_classifier(
    config: TrainConfig, data: FoldData, classes: int, log: Callable[[str], None]
) -> tuple[EmotionClassifier, VqMaeWeights | None]:
    """A classifier on the CPU, pre-trained or random, the same for the same seed; and its initial weights.

    Raises WeightsError, ConfigError.
    """
    shape, weights = model_shape(config)
    check_tokenizers(config, data, weights)
    assert config.recipe.vq_mae is not None
    torch.manual_seed(config.seed)
    model = EmotionClassifier(shape, classes, config.recipe.vq_mae.head)
    if weights:
        log(f"{config.weights}: begins with its {initialize_classifier(model, weights)}")
    else:
        load_codebooks(config, data, model.encoder)
    freeze_parameters(model, config.recipe.freeze)
    return model, weights


def variant_of(model: EmotionClassifier, weights: VqMaeWeights | None, recipe: Recipe) -> Variant:
    """What a run is called in its protocol and in the report."""
    shape, losses, changes, start = model.encoder.config, "none", tuple[str, ...](), "scratch"
    if weights:
        losses, changes = _describe_pretrainings(weights)
        trains = {each.requires_grad for each in model.encoder.parameters()}
        start = "partly" if len(trains) > 1 else "tuned" if trains == {True} else "frozen"
    return Variant(
        model=model_name(shape),
        depth=str(shape.depth),
        fusion=describe_fusion(shape),
        head=model.head_name,
        losses=losses,
        pretraining_changes=changes,
        start=start,
        tuning_changes=tuning_changes(recipe),
    )


def pretrainings_of(weights: VqMaeWeights) -> list[dict[str, Any]]:
    """Settings of all pre-trainings that made weights, the oldest first; [{}] where nothing says them."""
    last = weights.details.get("pretraining")
    last = dict(last) if isinstance(last, dict) else {}
    earlier = last.pop(EARLIER, [])
    return [*(each for each in earlier if isinstance(each, dict)), last] if isinstance(earlier, list) else [{}]


def _describe_pretrainings(weights: VqMaeWeights) -> tuple[str, tuple[str, ...]]:
    """Losses of all pre-trainings together, and what differs from the paper's, as a variant has them."""
    known, stages = {each.name for each in fields(TokenPretraining)}, pretrainings_of(weights)
    if weights.lineage.kind in ("supervised", "unknown") or not all({*_LOSSES} <= stage.keys() for stage in stages):
        return "unknown", ()
    try:
        trained: list[TokenPretraining] = [
            from_json(TokenPretraining, {name: stage[name] for name in known & stage.keys()}, "pretraining")
            for stage in stages
        ]
    except SchemaError:  # of another version
        return "unknown", ()
    names = [name for name in _LOSSES if any(getattr(each, name) for each in trained)]
    changes = dict.fromkeys(change for each in trained for change in pretraining_changes(each))
    several = [f"{len(trained)} pre-trainings"] if len(trained) > 1 else []
    return "both" if len(names) > 1 else names[0], (*changes, *several)


def tokenizer_of(data: FoldData) -> str:
    """SHA-256 of the tokenizers that made the codes. Raises ConfigError for corpora with codes of different ones."""
    found = {part.name: _source_of(part).tokenizer for part in data.parts}
    if len(set(found.values())) > 1:
        raise ConfigError(
            f"{' and '.join(found)}: found codes of different tokenizers, expected those of the same; make them again"
        )
    return next(iter(found.values()))


def check_tokenizers(config: TrainConfig, data: FoldData, weights: VqMaeWeights | None) -> None:
    """Raise ConfigError unless weights were trained on codes of the tokenizers of these shards."""
    tokenizer = tokenizer_of(data)
    if weights and weights.tokenizer != tokenizer:
        raise ConfigError(
            f"{config.weights}: were trained on codes of other tokenizers ({weights.tokenizer[:12]}) than those of "
            f"{data.name} ({tokenizer[:12]}), in which the same code means something else"
        )


def load_codebooks(config: TrainConfig, data: FoldData, *parts: Encoder | Decoder | None) -> None:
    """Begin with the codebooks of `config.tokenizers`, if any. Raises WeightsError, ConfigError for other ones."""
    if config.tokenizers is None:
        return
    found = load_tokenizers(config.tokenizers)
    if found.sha256 != tokenizer_of(data):
        raise ConfigError(f"{config.tokenizers}: found other tokenizers than those that made the codes of {data.name}")
    for part in parts:
        if part is not None:
            part.load_codebooks({AUDIO: found.model.audio.codebook, VISUAL: found.model.visual.codebook})


def lineage_with_tokenizers(data: FoldData, weights: VqMaeWeights | None) -> Lineage:
    """What a model descends from before its training: initial weights, and the tokenizers that made the codes."""
    before = weights.lineage if weights else RANDOM
    ancestors = list(before.ancestors)
    for part in data.parts:
        found: Lineage = from_json(
            Lineage, dict(_source_of(part).lineage), f"{part.folder.path}: lineage of its tokens"
        )
        ancestors += [each for each in found.ancestors if each not in ancestors]
    return replace(before, ancestors=tuple(ancestors))


def _source_of(part: FoldPart) -> TokenSource:
    return token_source(part.folder.index.identity, str(part.folder.path))

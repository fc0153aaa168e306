"""From a configuration to a VQ-MAE-AV: its shape, and the weights that it begins with."""

from __future__ import annotations

from dataclasses import replace

import torch

from train.config import ConfigError, TrainConfig
from train.models.checkpoint_formats import WeightsError
from train.models.vq_mae_av import AUDIO, MODALITIES, MODELS, VISUAL, VqMaeConfig
from train.models.vq_mae_heads import EmotionClassifier
from train.models.vq_mae_weights import VqMaeWeights, initialize_classifier, load_vq_mae

#: Name of a strategy -> modalities that it has not.
_WITHOUT = {"vq-mae-a": VISUAL, "vq-mae-v": AUDIO}


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


def make_emotion_classifier(config: TrainConfig, classes: int) -> tuple[EmotionClassifier, VqMaeWeights | None]:
    """A classifier on the CPU, pre-trained or random, the same for the same seed; and its initial weights."""
    shape, weights = model_shape(config)
    assert config.recipe.vq_mae is not None
    torch.manual_seed(config.seed)
    model = EmotionClassifier(shape, classes, config.recipe.vq_mae.head)
    if weights:
        initialize_classifier(model, weights)
    return model, weights

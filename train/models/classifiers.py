"""Trained classifiers of any model: loaded from the folder of a run or of an export."""

from __future__ import annotations

from pathlib import Path

from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_io import read_settings
from train.models.vq_mae_weights import is_vq_mae, load_emotion_classifier
from train.models.weights import TrainedClassifier, load_classifier


def load_trained_classifier(folder: Path, encoder: str | None = None) -> TrainedClassifier:
    """As `train.models.weights.load_classifier`, also of a VQ-MAE-AV."""
    if not is_vq_mae(read_settings(folder)):
        return load_classifier(folder, encoder)
    if encoder is not None:
        raise WeightsError(f"{folder}: found a built-in model, expected no --encoder {encoder}")
    model, weights = load_emotion_classifier(folder)
    return TrainedClassifier(
        model=model,
        classes=weights.classes,
        licence=weights.licence,
        lineage=weights.lineage,
        details=weights.details,
    )

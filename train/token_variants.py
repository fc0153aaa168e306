"""Variants of a VQ-MAE-AV, as a run's protocol names them and the tables of its paper compare them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from train.models.vq_mae_av import MODEL_DEFAULT, MODELS, VqMaeConfig
from train.recipes import RECIPES, Recipe, TokenPretraining

#: Depth of the model that is named, whatever it is.
DEFAULT_DEPTH = "default"
_TEXT = re.compile(
    r"(?P<model>[a-z0-9-]+): depth (?P<depth>\d+), fusion (?P<fusion>\S+), head (?P<head>\w+), "
    r"losses (?P<losses>\w+)(?: \((?P<pretraining_changes>[^()]+)\))?, "
    r"(?P<start>\w+)(?: \((?P<tuning_changes>[^()]+)\))?"
)
_CHANGES = ("pretraining_changes", "tuning_changes")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What the paper's ablations change."""

    model: str
    """A name in `MODELS`."""
    depth: str
    """Blocks of the encoder, or DEFAULT_DEPTH."""
    fusion: str
    """Of encoder and decoder, such as `caf-saf`."""
    head: str
    """Of a classifier."""
    losses: str
    """Of all pre-trainings: `generative`, `contrastive` or `both`; `none` without one, `unknown` where labels were used
    before, or nothing says what was."""
    pretraining_changes: tuple[str, ...] = ()
    """How the pre-training differs from the paper's, beside the above, such as `separate passes`; without commas and
    parentheses, as the next."""
    start: str
    """`scratch`, or whether the pre-trained encoder was `frozen`, `partly` frozen or `tuned`."""
    tuning_changes: tuple[str, ...] = ()
    """The same of the fine-tuning, such as `25 % of the labels`."""

    def __str__(self) -> str:
        """In words that `parse_variant` reads."""
        changes = (self.pretraining_changes, self.tuning_changes)
        before, after = (f" ({', '.join(each)})" if each else "" for each in changes)
        return (
            f"{self.model}: depth {self.depth}, fusion {self.fusion}, head {self.head}, losses {self.losses}{before}, "
            f"{self.start}{after}"
        )

    def includes(self, other: Variant) -> bool:
        """Whether another variant, of any model, is this one, whatever else was changed in its trainings."""
        fields = ("fusion", "head", "losses", "start")
        depth = str(MODELS[other.model].depth) if self.depth == DEFAULT_DEPTH else self.depth
        return depth == other.depth and all(getattr(self, name) == getattr(other, name) for name in fields)


def describe_fusion(shape: VqMaeConfig) -> str:
    """Of encoder and decoder, such as `caf-saf`."""
    return f"{shape.encoder_fusion}-{shape.decoder_fusion}"


def pretraining_changes(settings: TokenPretraining) -> tuple[str, ...]:
    """How a pre-training differs from the paper's, in words; settings of a loss that it has not are left out."""
    paper = RECIPES[f"pretrain-{MODEL_DEFAULT}"].token_pretraining
    assert paper is not None
    generative, contrastive = settings.generative, settings.contrastive
    sound, faces = settings.concentration
    weighted = generative * paper.contrastive != contrastive * paper.generative
    changes = {
        "separate passes": contrastive and settings.separate != paper.separate,
        f"concentration {sound:g} and {faces:g}": settings.concentration != paper.concentration,
        f"decoded {100 * settings.decoded:g} %": generative and settings.decoded != paper.decoded,
        "within instants": generative and settings.within_instants != paper.within_instants,
        f"temperature {settings.temperature:g}": contrastive and settings.temperature != paper.temperature,
        f"generative {generative:g} and contrastive {contrastive:g}": generative and contrastive and weighted,
    }
    return tuple(words for words, changed in changes.items() if changed)


def tuning_changes(recipe: Recipe) -> tuple[str, ...]:
    """How a training of a classifier differs from the paper's, in words."""
    paper, dropout = RECIPES[MODEL_DEFAULT], recipe.augmentation.modality_dropout
    changes = {
        f"{100 * recipe.training_share:g} % of the labels": recipe.training_share != paper.training_share,
        recipe.loss: recipe.loss != paper.loss,
        f"label smoothing {recipe.label_smoothing:g}": recipe.label_smoothing != paper.label_smoothing,
        f"modality dropout {dropout:g}": dropout != paper.augmentation.modality_dropout,
        f"{recipe.class_weights} class weights": recipe.class_weights != paper.class_weights,
        f"sampling {recipe.sampling}": recipe.sampling != paper.sampling,
    }
    return tuple(words for words, changed in changes.items() if changed)


def parse_variant(text: str) -> Variant | None:
    """The variant that words name; None for other words."""
    found = _TEXT.fullmatch(text)
    if not found or found["model"] not in MODELS:
        return None
    fields: dict[str, Any] = found.groupdict()
    fields |= {name: tuple(found[name].split(", ")) if found[name] else () for name in _CHANGES}
    return Variant(**fields)

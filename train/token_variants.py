"""Variants of a VQ-MAE-AV, as a run's protocol names them and the tables of its paper compare them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from train.models.vq_mae_av import MODELS, VqMaeConfig

#: Depth of the model that is named, whatever it is.
DEFAULT_DEPTH = "default"
_TEXT = re.compile(
    r"(?P<model>[a-z0-9-]+): depth (?P<depth>\d+), fusion (?P<fusion>\S+), head (?P<head>\w+), "
    r"losses (?P<losses>\w+)(?P<separate> \(separate passes\))?, (?P<start>\w+)"
)


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
    """Of the pre-training: `generative`, `contrastive`, `both`, or `none` without one."""
    separate: bool = False
    """Whether contrastive tokens are of passes of their own, which the paper's are not."""
    start: str
    """`scratch`, or whether the pre-trained encoder was `frozen`, `partly` frozen or `tuned`."""

    def __str__(self) -> str:
        """In words that `parse_variant` reads."""
        return (
            f"{self.model}: depth {self.depth}, fusion {self.fusion}, head {self.head}, losses {self.losses}"
            f"{' (separate passes)' if self.separate else ''}, {self.start}"
        )

    def includes(self, other: Variant) -> bool:
        """Whether another variant, of any model, is this one; contrastive tokens may be of separate passes."""
        fields = ("fusion", "head", "losses", "start")
        depth = str(MODELS[other.model].depth) if self.depth == DEFAULT_DEPTH else self.depth
        return depth == other.depth and all(getattr(self, name) == getattr(other, name) for name in fields)


def describe_fusion(shape: VqMaeConfig) -> str:
    """Of encoder and decoder, such as `caf-saf`."""
    return f"{shape.encoder_fusion}-{shape.decoder_fusion}"


def parse_variant(text: str) -> Variant | None:
    """The variant that words name; None for other words."""
    found = _TEXT.fullmatch(text)
    if not found or found["model"] not in MODELS:
        return None
    fields: dict[str, Any] = {**found.groupdict(), "separate": found["separate"] is not None}
    return Variant(**fields)

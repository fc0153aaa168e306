"""Which tokens of a clip VQ-MAE-AV sees: coupled masks (paper 3.3).

The hidden shares of sound and faces are drawn from a Dirichlet distribution and sum to 1: the more of the one is
hidden, the more of the other is visible. At least one token of each modality is visible and one hidden. No clip has
more visible tokens than the larger modality has tokens, so that a model may compute as many for every clip: shapes are
static.

Everything is drawn from (seed, epoch, draw, clip id). Shape suffixes: B clips, N tokens of a modality, m decoded ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.augment import ClipDraws, TransformError


@dataclass(frozen=True, kw_only=True)
class TokenMaskSettings:
    """How much is hidden and predicted. Raises TransformError."""

    concentration: tuple[float, float] = (1.0, 1.0)
    """Of the Dirichlet distribution of the hidden shares of sound and faces: (1, 1) is uniform."""
    decoded: float = 1.0
    """Share of the tokens of each modality that is decoded, hidden ones first, in random order. Only hidden ones are
    predicted."""

    def __post_init__(self) -> None:
        rules = {
            "concentration": (
                all(0 < alpha <= 1000 for alpha in self.concentration),
                "two numbers above 0, up to 1000",
            ),
            "decoded": (0 < self.decoded <= 1, "above 0, up to 1"),
        }
        for name, (satisfied, expected) in rules.items():
            if not satisfied:
                raise TransformError(f"{name}: found {getattr(self, name)}, expected {expected}")


class TokenMasks(NamedTuple):
    """Masks of B clips, by modality."""

    visible: dict[str, Tensor]
    """bool [B, N] tokens that the encoder sees."""
    decoded: dict[str, Tensor]
    """int64 [B, m] tokens that are decoded; of these the hidden ones are predicted."""

    def to(self, device: torch.device | str) -> TokenMasks:
        """The same on a device."""
        return TokenMasks(
            *({name: each.to(device, non_blocking=True) for name, each in masks.items()} for masks in self)
        )


def draw_masks(settings: TokenMaskSettings, tokens: Mapping[str, int], draws: ClipDraws) -> TokenMasks:
    """Coupled masks of some clips, on the CPU. Pure.

    `tokens` is modality -> N, in the order of `settings.concentration`; of a single modality
    the share is the first one.
    """
    visible = []
    for generator in draws.generators("hidden share"):
        shares = generator.dirichlet(settings.concentration)[: len(tokens)]
        sizes = np.array([*tokens.values()])
        visible.append(np.clip(((1 - shares) * sizes).astype(np.int64), 1, sizes - 1))
    return _place(tokens, np.array(visible).reshape(-1, len(tokens)), draws, settings.decoded)


def draw_fixed_masks(
    hidden: Mapping[str, float], tokens: Mapping[str, int], draws: ClipDraws, decoded: float = 1.0
) -> TokenMasks:
    """Masks that hide given shares of each modality, 0 to 1, and decode a share of the tokens. Pure."""
    counts = np.array([count - round(hidden[name] * count) for name, count in tokens.items()])
    return _place(tokens, np.tile(counts, (len(draws.keys), 1)), draws, decoded)


def _place(tokens: Mapping[str, int], counts: npt.NDArray[np.int64], draws: ClipDraws, share: float) -> TokenMasks:
    """Masks in which `counts` [B, modalities] random tokens are visible, and this share of all is decoded."""
    visible, decoded = {}, {}
    for (name, count), seen in zip(tokens.items(), counts.T, strict=True):
        drawn = [generator.permutation(count) for generator in draws.generators(f"hidden {name}")]
        hidden_first = np.array(drawn, dtype=np.int64).reshape(-1, count)
        shown = np.zeros(hidden_first.shape, dtype=np.bool_)
        np.put_along_axis(shown, hidden_first, np.arange(count) >= count - seen[:, None], axis=1)
        visible[name] = torch.from_numpy(shown)
        decoded[name] = torch.from_numpy(np.sort(hidden_first[:, : max(1, round(share * count))], axis=1))
    return TokenMasks(visible, decoded)

"""Batches of codes -> input of VQ-MAE-AV's classifiers: a window of each clip, and which of its tokens there are.

A missing part of a modality is a part of its time: its tokens are hidden from the encoder, as in pre-training. Nothing
is augmented but, with `modality_dropout`, a whole modality hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manifests.schema import CROP_PX
from train.data.augment import NO_AUGMENTATION, Augmentation, ClipDraws, TransformError, dropped_modalities
from train.data.missing import Absent, Missing
from train.data.token_reader import TokenBatch
from train.data.transforms import ModelInput, NormalizationStats, View
from train.fusion import Strategy
from train.models.vq_mae_av import AUDIO, VISUAL, CodeShape, VqMaeConfig


class TokenInput(NamedTuple):
    """Input of a classifier of tokens."""

    codes: dict[str, Tensor]
    """Modality -> [B, *grid]."""
    visible: dict[str, Tensor] | None
    """Modality -> bool [B, N] tokens that a clip has; None for all."""


@dataclass(frozen=True, kw_only=True)
class TokenTransform:
    """As `train.data.transforms.ClipTransform`, for batches of codes."""

    strategy: Strategy
    """One of `train.fusion.TOKEN_STRATEGIES`."""
    classes: int
    model: VqMaeConfig
    augmentation: Augmentation = NO_AUGMENTATION
    repeats: int = 1
    """Draws of each clip in a training batch, each a window of its own."""
    seed: int = 0

    def __post_init__(self) -> None:
        codes = {"window_share": NO_AUGMENTATION.window_share, "modality_dropout": self.augmentation.modality_dropout}
        if self.augmentation != Augmentation(**codes):
            raise TransformError("augmentation: found changes of pictures or sound, expected modality_dropout only")

    @property
    def normalization(self) -> NormalizationStats:
        """Codes need none."""
        return NormalizationStats()

    @property
    def face_px(self) -> int:
        """Codes have no pixels: any side."""
        return CROP_PX

    def evaluation_input(
        self, batch: TokenBatch, view: View | None = None, missing: Missing | None = None
    ) -> ModelInput:
        """One window of each clip, complete or with a part of a modality missing. Raises TransformError for crops."""
        seen = view or View()
        if not seen.whole_faces:
            raise TransformError("tokens: found a crop or a mirrored view, expected whole faces")
        absent = missing.absent(batch.keys, *self._sizes) if missing else None
        return self._input(batch, seen.window, absent)

    def training_input(self, batch: TokenBatch, epoch: int) -> ModelInput:
        """A window of each clip for each draw: first one draw of each clip, then the next."""
        draws = [self._draw(batch, epoch, draw) for draw in range(self.repeats)]
        if len(draws) == 1:
            return draws[0]
        inputs = [each.inputs for each in draws]
        codes = {name: torch.cat([each.codes[name] for each in inputs]) for name in inputs[0].codes}
        visible = None
        if any(each.visible for each in inputs):
            shown = [
                each.visible or self._visible(batch, Absent.wholly((0,) * len(batch), *self._sizes)) for each in inputs
            ]
            visible = {name: torch.cat([each[name] for each in shown]) for name in codes}
        return ModelInput(TokenInput(codes, visible), torch.cat([each.targets for each in draws]))

    def _draw(self, batch: TokenBatch, epoch: int, draw: int) -> ModelInput:
        absent = None
        if self.augmentation.modality_dropout and len(self.model.shapes) > 1:
            draws = ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=epoch, draw=draw)
            dropped = dropped_modalities(self.augmentation, draws)
            dropped = np.where(np.array(batch.missing, dtype=int) == 0, dropped, 0)
            absent = Absent.wholly(dropped.tolist(), *self._sizes)
        return self._input(batch, draw, absent)

    def _input(self, batch: TokenBatch, window: int, absent: Absent | None) -> ModelInput:
        codes = window_codes(batch, window, self.model)
        if any(batch.missing):
            recorded = Absent.wholly(batch.missing, *self._sizes)
            absent = recorded if absent is None else absent | recorded
        visible = None if absent is None else self._visible(batch, absent)
        targets = functional.one_hot(batch.labels, self.classes).float()
        return ModelInput(TokenInput(codes, visible), targets)

    def _visible(self, batch: TokenBatch, absent: Absent) -> dict[str, Tensor]:
        """Tokens of the time steps that are not absent."""
        device = batch.labels.device
        hidden = {AUDIO: absent.sound, VISUAL: absent.faces}
        return {
            name: torch.from_numpy(~hidden[name]).repeat_interleave(shape.tokens // _time_steps(shape), 1).to(device)
            for name, shape in self.model.shapes.items()
        }

    @property
    def _sizes(self) -> tuple[int, int]:
        """Time steps of the faces, and windows of the sound: as `Missing` counts, one fewer than time steps."""
        return self._steps(VISUAL), max(self._steps(AUDIO) - 1, 0)

    def _steps(self, name: str) -> int:
        shape = self.model.shapes.get(name)
        return _time_steps(shape) if shape else 0


def window_codes(batch: TokenBatch, window: int, model: VqMaeConfig) -> dict[str, Tensor]:
    """Modality -> codes [B, *grid] of one window of each clip."""
    codes: Mapping[str, Tensor] = {AUDIO: batch.audio, VISUAL: batch.visual}
    return {name: codes[name][:, window] for name in model.shapes}


def _time_steps(shape: CodeShape) -> int:
    return shape.grid[0] // shape.tube[0]

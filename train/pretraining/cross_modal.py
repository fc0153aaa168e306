"""Whether one modality says something about the other: how well a hidden one is painted from the clip's own other one.

A modality is hidden wholly, its tokens are predicted from visible ones of the other modality, and the loss is compared
with that of the same prediction from other clips, with the same mask. Other clips are the next ones in the order of the
shards, mostly of the same speaker, so that it is not the speaker who makes the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from train.classification import autocast
from train.data.augment import ClipDraws, TransformError
from train.data.loader import CachedLoader, Loader
from train.data.masks import SHOWS_FACES, SHOWS_SOUND
from train.distributed import Ranks
from train.models.mae import reconstruction_losses
from train.pretraining.reconstruction import VALIDATION_EPOCH, Reconstruction, micro_batched

#: Other clips that each clip is compared with.
OTHERS = 3
#: Name of a hidden modality -> its code.
HIDDEN = {"sound": SHOWS_SOUND, "faces": SHOWS_FACES}


@dataclass(frozen=True, kw_only=True)
class CrossModal:
    """Mean losses of a modality that was hidden wholly."""

    own: float
    """Predicted from the clip's own other modality."""
    other: float
    """Predicted from that of other clips."""
    clips: int
    won: int
    """Clips whose own gave the lower loss."""


@torch.inference_mode()
def measure_cross_modal(
    objective: Reconstruction,
    model: Callable[..., Tensor],
    loader: Loader | CachedLoader,
    ranks: Ranks,
    micro_batches: int,
) -> dict[str, CrossModal]:
    """Hidden modality -> losses over the clips of a loader that does not shuffle, and have both modalities.

    Empty where tokens show both modalities, or where the recipe shows more tokens than one modality has.
    """
    layout, settings = objective.layout, replace(objective.masks, hide_modality=1.0)
    try:
        layout.sizes(settings)
    except TransformError:
        return {}
    if not layout.separable:
        return {}
    sums = {name: torch.zeros(4, dtype=torch.float64, device=ranks.device) for name in HIDDEN}
    for part in micro_batched(loader, micro_batches):
        batch = part.to(ranks.device)
        clips = objective.masked(batch, VALIDATION_EPOCH, training=False)
        complete = torch.tensor([not code for code in batch.missing or (0,) * len(batch)], device=ranks.device)
        draws = ClipDraws(keys=batch.draw_keys, seed=objective.seed, epoch=VALIDATION_EPOCH, draw=0)
        for name, code in HIDDEN.items():
            visible = layout.draw(settings, draws, hidden=code).visible.to(ranks.device)
            decoded = torch.from_numpy(np.flatnonzero(layout.codes == code)).to(ranks.device).expand(len(batch), -1)
            losses = []
            for step in range(min(OTHERS + 1, len(batch))):
                with autocast(ranks.device):
                    predicted = model(clips.inputs.roll(-step, 0), visible, decoded)
                losses.append(reconstruction_losses(predicted, clips.targets, decoded)[complete].double())
            if len(losses) > 1:  # a clip that is alone in its batch has no other
                own, other = losses[0], torch.stack(losses[1:]).mean(0)
                sums[name] += torch.stack([own.sum(), other.sum(), complete.sum(), (own < other).sum()])
    totals = {name: ranks.sum(each).tolist() for name, each in sums.items()}
    return {
        name: CrossModal(own=own / clips, other=other / clips, clips=int(clips), won=int(won))
        for name, (own, other, clips, won) in totals.items()
        if clips
    }

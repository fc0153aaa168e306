"""Whether one modality says something about the other: how well a hidden one is painted from the clip's own other one.

A modality is hidden wholly, and its tokens are predicted from visible ones of the other modality: of the same clip, of
the same clip half its length later, and of other clips, always with the same masks. Other clips are the next ones of
the table, mostly of the same speaker. A model that is better with the clip's own modality than with another clip's may
know only what is said, or with which emotion; one that is worse half a clip later knows when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.classification import autocast
from train.data.augment import ClipDraws, TransformError
from train.data.batches import Batch
from train.data.clip_table import ClipTable
from train.data.loader import Loader
from train.data.masks import SHOWS_FACES, SHOWS_SOUND, TokenLayout
from train.distributed import Ranks
from train.models.mae import reconstruction_losses
from train.models.videomae import join_patches, split_patches
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
    shifted: float
    """Predicted from it, half a clip later."""
    other: float
    """Predicted from that of other clips."""
    clips: int
    better_than_shifted: int
    """Clips of which `own` is the lower loss; by chance half of them."""
    better_than_other: int


@torch.inference_mode()
def measure_cross_modal(
    objective: Reconstruction,
    model: Callable[..., Tensor],
    make_loader: Callable[[ClipTable], Loader],
    clips: ClipTable,
    ranks: Ranks,
    micro_batches: int,
) -> dict[str, CrossModal]:
    """Hidden modality -> losses over those of some clips that have both modalities. Loaders do not shuffle.

    Empty where tokens show both modalities, where the recipe shows more tokens than one modality has, and for a single
    clip.
    """
    layout, settings = objective.layout, replace(objective.masks, hide_modality=1.0)
    try:
        layout.sizes(settings)
    except TransformError:
        return {}
    complete = clips.take(np.flatnonzero(clips.missing == 0))
    if not layout.separable or len(complete) < 2:
        return {}
    later = torch.from_numpy(_half_later(layout)).to(ranks.device)
    sums = {name: torch.zeros(6, dtype=torch.float64, device=ranks.device) for name in HIDDEN}
    for batches in _with_others(complete, make_loader, micro_batches):
        clip, *others_of = (each.to(ranks.device) for each in batches)
        masked = objective.masked(clip, VALIDATION_EPOCH, training=False)
        own, targets = masked.inputs, masked.targets  # inputs are complete where each modality has tokens of its own
        others = [objective.transform.evaluation_input(each).inputs for each in others_of]
        patches = split_patches(own, objective.patch)[:, later]
        shifted = join_patches(patches, layout.codes.shape, objective.patch)
        draws = ClipDraws(keys=clip.draw_keys, seed=objective.seed, epoch=VALIDATION_EPOCH, draw=0)
        for name, code in HIDDEN.items():
            visible = layout.draw(settings, draws, hidden=code).visible.to(ranks.device)
            decoded = torch.from_numpy(np.flatnonzero(layout.codes == code)).to(ranks.device).expand(len(own), -1)
            losses = []
            for inputs in (own, shifted, *others):
                with autocast(ranks.device):
                    predicted = model(inputs, visible, decoded)
                losses.append(reconstruction_losses(predicted, targets, decoded).double())
            right, moved, other = losses[0], losses[1], torch.stack(losses[2:]).mean(0)
            counts = [torch.ones_like(right), right < moved, right < other]
            sums[name] += torch.stack([each.sum() for each in (right, moved, other, *counts)])
    totals = {name: ranks.sum(each).tolist() for name, each in sums.items()}
    return {
        name: CrossModal(
            own=own / count,
            shifted=shifted / count,
            other=other / count,
            clips=int(count),
            better_than_shifted=int(before_shifted),
            better_than_other=int(before_other),
        )
        for name, (own, shifted, other, count, before_shifted, before_other) in totals.items()
    }


def _with_others(
    clips: ClipTable, make_loader: Callable[[ClipTable], Loader], micro_batches: int
) -> Iterator[tuple[Batch, ...]]:
    """Micro-batches of the clips, each with those of the clips 1 to OTHERS places later, the first after the last."""
    places = np.arange(len(clips))
    loaders = [make_loader(clips.take(np.roll(places, -step))) for step in range(min(OTHERS + 1, len(clips)))]
    return zip(*(micro_batched(loader, micro_batches) for loader in loaders), strict=True)


def _half_later(layout: TokenLayout) -> npt.NDArray[np.int64]:
    """[N] for each token, the one at its place half of its modality's time steps later, the first after the last."""
    tokens = np.arange(layout.codes.size).reshape(layout.codes.shape)
    for code in layout.groups:
        steps = np.flatnonzero((layout.codes == code).any(axis=(1, 2)))
        shown = layout.codes[steps] == code
        tokens[steps] = np.where(shown, tokens[np.roll(steps, -(len(steps) // 2))], tokens[steps])
    return tokens.reshape(-1)

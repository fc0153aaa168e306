"""What a model paints hidden patches as, beside what could be painted without learning anything.

Losses are of the hidden patches of validation clips, with the masks of every validation:

    model             what the decoder predicts
    mean_patch        its own mean everywhere: a loss of 1, but for patches of one colour
    nearest_visible   the nearest visible patch of the same modality, or of any if none is visible
    mean_of_place     the mean of the same place and time over training clips

A patch is normalized by its own mean and deviation before anything is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.classification import autocast
from train.data.clip_table import ClipTable
from train.data.loader import Loader
from train.data.masks import SHOWS_BOTH, SHOWS_FACES, SHOWS_SOUND, TokenLayout
from train.distributed import Ranks
from train.models.videomae import CHANNELS
from train.pretraining.reconstruction import VALIDATION_EPOCH, Reconstruction, micro_batched

#: Name of what tokens show -> its code.
_SHOWN = {"faces": SHOWS_FACES, "sound": SHOWS_SOUND, "both": SHOWS_BOTH}


@dataclass(frozen=True, kw_only=True)
class PatchLosses:
    """Mean losses of hidden patches, each painted in another way."""

    model: float
    mean_patch: float
    nearest_visible: float
    mean_of_place: float


@torch.inference_mode()
def measure_hidden_patches(
    objective: Reconstruction,
    model: Callable[..., Tensor],
    make_loader: Callable[[ClipTable], Loader],
    training: ClipTable,
    validation: ClipTable,
    ranks: Ranks,
    micro_batches: int,
) -> dict[str, PatchLosses]:
    """What tokens show -> losses over the validation clips. Loaders do not shuffle."""
    codes = torch.from_numpy(objective.layout.codes.reshape(-1)).to(ranks.device)
    distances = _distances(objective.layout).to(ranks.device)
    places = _mean_targets(objective, make_loader(training), ranks, micro_batches)
    sums = {name: torch.zeros(5, dtype=torch.float64, device=ranks.device) for name in _SHOWN}
    for part in micro_batched(make_loader(validation), micro_batches):
        clips = objective.masked(part.to(ranks.device), VALIDATION_EPOCH, training=False)
        visible, decoded = clips.masks.visible, clips.masks.decoded
        with autocast(ranks.device):
            predicted = model(clips.inputs, visible, decoded)
        for clip, hidden in enumerate(decoded):
            if clips.counted is not None:
                hidden = hidden[clips.counted[clip]]
            targets, seen = clips.targets[clip], visible[clip]
            nearest = seen[distances[hidden][:, seen].argmin(dim=1)]
            painted = (predicted[clip].float(), torch.zeros_like(targets[hidden]), targets[nearest], places[hidden])
            losses = torch.stack([(each - targets[hidden]).square().mean(dim=1) for each in painted]).double()  # [4, m]
            for name, code in _SHOWN.items():
                shown = codes[hidden] == code
                sums[name] += torch.cat([losses[:, shown].sum(dim=1), shown.sum()[None]])
    totals = {name: ranks.sum(each).tolist() for name, each in sums.items()}
    return {
        name: PatchLosses(
            model=painted / count,
            mean_patch=mean / count,
            nearest_visible=nearest / count,
            mean_of_place=place / count,
        )
        for name, (painted, mean, nearest, place, count) in totals.items()
        if count
    }


def _mean_targets(objective: Reconstruction, loader: Loader, ranks: Ranks, micro_batches: int) -> Tensor:
    """[N, P] mean of what each patch of a loader's clips should be painted as, float32."""
    size = (objective.layout.codes.size, CHANNELS * math.prod(objective.patch))
    total = torch.zeros(size, dtype=torch.float64, device=ranks.device)
    for part in micro_batched(loader, micro_batches):
        clips = objective.masked(part.to(ranks.device), VALIDATION_EPOCH, training=False)
        total += clips.targets.sum(dim=0, dtype=torch.float64)
    return (ranks.sum(total) / loader.sampler.clips).float()


def _distances(layout: TokenLayout) -> Tensor:
    """[N, N] distances between tokens in patches and time steps; larger than any other between modalities."""
    places = np.argwhere(np.ones(layout.codes.shape))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    codes = layout.codes.reshape(-1)
    return torch.from_numpy(apart + 2 * apart.max() * (codes[:, None] != codes)).float()

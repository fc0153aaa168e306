"""A picture of what a masked autoencoder sees and paints: originals, masks and reconstructions under one time axis.

Strategies mix both modalities into one video. Here they are apart again: the place of every face and spectrogram in the
video is found by fusing pairs whose pixels have the number of their instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from manifests.schema import FRAMES
from train.data.transforms import downsample
from train.fusion import FusionInput, Strategy
from train.report.plots import as_png, make_figure

Picture = npt.NDArray[np.float32]

FACES, SOUND, SUM = "faces", "spectrograms", "faces + spectrograms"
_ROW_INCHES, _TITLE_INCHES = 0.62, 0.3
#: Grey of what is hidden.
HIDDEN = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """One clip, three times."""

    key: str
    videos: Mapping[str, Tensor]
    """Title of a row, such as `original` -> RGB [3, T, H, W] in 0..1."""


def strips(video: Tensor, strategy: Strategy, key: str) -> dict[str, Picture]:
    """A video [3, T, H, W] -> a strip of each modality, instants side by side [h, F w, 3]; one for a sum of both."""
    side = video.shape[-1]
    numbers = {}
    for name, shown in ((FACES, strategy.faces), (SOUND, strategy.windows)):
        numbered = torch.arange(1, shown + 1).float().view(1, -1, 1, 1, 1)
        images = {FACES: strategy.faces, SOUND: strategy.windows}
        pairs = {
            each: (numbered if each == name else torch.zeros(1)).expand(1, count, 3, side, side)
            for each, count in images.items()
        }
        fused = strategy(FusionInput(faces=pairs[FACES], spectrograms=pairs[SOUND], keys=(key,)))
        numbers[name] = downsample(fused, tuple(video.shape[1:]))[0, 0].round().long()
    if bool(((numbers[FACES] > 0) & (numbers[SOUND] > 0)).any()):
        return {SUM: _strip(video, numbers[FACES])}
    return {name: _strip(video, places) for name, places in numbers.items() if places.any()}


def _strip(video: Tensor, places: Tensor) -> Picture:
    """Video [3, T, H, W] and the instant, from 1, that each pixel [T, H, W] shows -> these images side by side."""
    images = []
    for instant in range(1, int(places.max()) + 1):
        frames, rows, columns = (torch.unique(axis) for axis in torch.where(places == instant))
        images.append(video[:, frames][:, :, rows][:, :, :, columns][:, 0])
    picture: Picture = torch.cat(images, dim=-1).permute(1, 2, 0).float().clamp(0, 1).cpu().numpy()
    return picture


@as_png
def draw_reconstructions(clips: Sequence[Reconstruction], strategy: Strategy, title: str) -> Figure:
    """Rows of each clip: of each modality the original, what is visible, what was painted."""
    rows = [
        (f"{name}: {row}", picture)
        for clip in clips
        for name, pictures in _by_modality(clip, strategy).items()
        for row, picture in pictures.items()
    ]
    figure = make_figure(_TITLE_INCHES + len(rows) * _ROW_INCHES)
    figure.suptitle(title)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (name, picture) in zip(axes, rows, strict=True):
        shown = picture
        if name.startswith(SOUND):
            shown = matplotlib.colormaps["magma"](picture.mean(axis=-1))
        axis.imshow(shown, extent=(0, FRAMES, 0, 1), aspect="auto", interpolation="nearest")
        axis.set_yticks([])
        axis.set_xticks([])
        axis.set_ylabel(name.replace(": ", "\n"), rotation=0, ha="right", va="center", fontsize=6)
    axes[-1].set_xticks(np.arange(FRAMES) + 0.5, [str(instant) for instant in range(1, FRAMES + 1)], fontsize=6)
    axes[-1].set_xlabel("instants of the window, from the first to the last", fontsize=7)
    return figure


def _by_modality(clip: Reconstruction, strategy: Strategy) -> dict[str, dict[str, Picture]]:
    """Modality -> title of a row -> strip."""
    found: dict[str, dict[str, Picture]] = {}
    for row, video in clip.videos.items():
        for name, picture in strips(video, strategy, clip.key).items():
            found.setdefault(name, {})[row] = picture
    return found

"""Six strategies that fuse faces and spectrograms into one video, and the two single modalities (paper III.B).

Shape suffixes: B clips, T = 16 frames of the encoder's input, H = W = 224 pixels, or 112, 56, 28 for an encoder of
smaller input: every rule is the same at any of them. V_i is the i-th face a strategy
uses, A_i the spectrogram of the same instant. A strategy that uses 8 of each takes every second instant, 0, 2, ..., 14,
and the windows that are twice as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.schema import CROP_PX, FACE_PX, FRAMES

#: Part of the hash that `rfas` draws orders from, so that no other draw uses it; changing it changes the strategy.
_RFAS_SALT = "rfas-1"


class FusionError(UserError):
    """An unknown strategy, or input that is not what a strategy takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FusionInput:
    """Images of both modalities, normalised, float; a modality that a strategy does not use has 0 frames."""

    faces: Tensor
    """[B, 16 | 8 | 0, 3, H, W]."""
    spectrograms: Tensor
    """[B, 16 | 8 | 0, 3 | 1, H, W]; one channel represents three equal ones."""
    keys: tuple[str, ...]
    """B clip ids."""

    @property
    def rgb_spectrograms(self) -> Tensor:
        """[B, frames, 3, H, W], without a copy."""
        return self.spectrograms.expand(-1, -1, 3, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A fusion strategy and the input it needs: a loader reads just that."""

    name: str
    faces: int
    """Faces a clip: 16, 8 or 0."""
    windows: int
    """Spectrograms a clip, which is the grid they come from: 16, 8 or 0."""
    order: int
    """Row in the paper's tables, from 1."""
    rule: Callable[[FusionInput], Tensor]
    """Pairs -> frames of the video, [B, T, 3, H, W]."""
    path: str = ""
    """Import path of a strategy of one's own; "" for those of this module."""
    sha256: str = ""
    """Of the file of a strategy of one's own."""
    tokens: bool = False
    """Whether it reads shards of tokens, and makes no video: see `TOKEN_STRATEGIES`."""

    @property
    def modality(self) -> str:
        """V, A or V+A, as the paper's tables print it."""
        return "+".join(letter for letter, images in (("V", self.faces), ("A", self.windows)) if images)

    def __call__(self, pairs: FusionInput) -> Tensor:
        """Pairs -> video [B, 3, 16, H, W]. Raises FusionError for pairs of another shape than declared."""
        clips, side = len(pairs.keys), pairs.faces.shape[-1]
        image = (side, side) if side in FACE_PX else (CROP_PX, CROP_PX)
        _check(self, "faces", pairs.faces, [(clips, self.faces, 3, *image)])
        _check(self, "spectrograms", pairs.spectrograms, [(clips, self.windows, c, *image) for c in (1, 3)])
        return self.rule(pairs).transpose(1, 2)


def strategy_named(name: str) -> Strategy:
    """Strategy of that name, also one that was registered. Raises FusionError, listing the valid names, for others."""
    known = {**_registered, **BUILT_IN}
    if name not in known:
        raise FusionError(f"unknown strategy {name!r}; valid are {', '.join(BUILT_IN)}")
    return known[name]


def register_strategy(strategy: Strategy) -> None:
    """Make a strategy of one's own known by its name, in this process. Raises FusionError for a built-in name."""
    if strategy.name in BUILT_IN:
        raise FusionError(f"strategy {strategy.name}: is a built-in name; choose another")
    _registered[strategy.name] = strategy


def cfas(pairs: FusionInput) -> Tensor:
    """Strategy 1, eq. (1): X_i = Concat(V_i, A_i); both halved in height, the face on top, the spectrogram below.

    Pairs of 16 and 16 -> [B, T, 3, H, W].
    """
    return torch.cat([_half_height(pairs.faces), _half_height(pairs.spectrograms).expand(-1, -1, 3, -1, -1)], dim=-2)


def sfas(pairs: FusionInput) -> Tensor:
    """Strategy 2, eq. (2): X_i = Add(Norm(V_i), Norm(A_i)), in float, so that no sum can wrap around.

    Norm is what made the pairs: faces by the encoder's statistics, spectrograms by those of the training shards.

    Pairs of 16 and 16 -> [B, T, 3, H, W].
    """
    return pairs.faces + pairs.spectrograms


def ffls(pairs: FusionInput) -> Tensor:
    """Strategy 3, eq. (3): X = Seq(V_1, ..., V_8, A_1, ..., A_8).

    Pairs of 8 and 8 -> [B, T, 3, H, W].
    """
    return torch.cat([pairs.faces, pairs.rgb_spectrograms], dim=1)


def fslf(pairs: FusionInput) -> Tensor:
    """Strategy 4, eq. (4): X = Seq(A_1, ..., A_8, V_1, ..., V_8).

    Pairs of 8 and 8 -> [B, T, 3, H, W].
    """
    return torch.cat([pairs.rgb_spectrograms, pairs.faces], dim=1)


def ofos(pairs: FusionInput) -> Tensor:
    """Strategy 5, eq. (5): X = Seq(V_1, A_1, V_2, A_2, ..., V_8, A_8); a tubelet of two frames has one of each.

    Pairs of 8 and 8 -> [B, T, 3, H, W].
    """
    return torch.stack([pairs.faces, pairs.rgb_spectrograms], dim=2).flatten(1, 2)


def rfas(pairs: FusionInput) -> Tensor:
    """Strategy 6, eq. (6): X = Rand(V_1, ..., V_8, A_1, ..., A_8), in an order that belongs to the clip: `clip_order`.

    Pairs of 8 and 8 -> [B, T, 3, H, W].
    """
    sequences = ffls(pairs)
    orders = np.array([clip_order(key) for key in pairs.keys], dtype=np.int64).reshape(-1, FRAMES)
    clips = torch.arange(len(sequences), device=sequences.device)
    return sequences[clips[:, None], torch.from_numpy(orders).to(sequences.device)]


def faces(pairs: FusionInput) -> Tensor:
    """The paper's V rows: X_i = V_i.

    Pairs of 16 and 0 -> [B, T, 3, H, W].
    """
    return pairs.faces


def spectrograms(pairs: FusionInput) -> Tensor:
    """The paper's A rows: X_i = A_i.

    Pairs of 0 and 16 -> [B, T, 3, H, W].
    """
    return pairs.rgb_spectrograms


def clip_order(key: str) -> tuple[int, ...]:
    """The order of 0..15 that belongs to a clip id: step t shows place `order[t]` of `ffls`.

    It sorts the 16 two-byte numbers in a SHA-256 of the id: the same in every epoch, process, version and machine.
    """
    digest = hashlib.sha256(f"{_RFAS_SALT} {key}".encode()).digest()
    return tuple(np.frombuffer(digest, dtype=">u2").argsort(kind="stable").tolist())


def _half_height(images: Tensor) -> Tensor:
    """[..., H, W] -> [..., H/2, W]: bilinear at a scale of exactly 2 is the mean of each two rows."""
    return images.unflatten(-2, (-1, 2)).mean(dim=-2)


def _check(strategy: Strategy, what: str, found: Tensor, expected: Iterable[tuple[int, ...]]) -> None:
    shapes = list(expected)
    if tuple(found.shape) not in shapes or not found.is_floating_point():
        valid = " or ".join(map(str, shapes))
        raise FusionError(f"{strategy.name}: found {what} {found.dtype} {tuple(found.shape)}, expected float {valid}")


_STRATEGIES = (
    Strategy(name="cfas", faces=16, windows=16, order=6, rule=cfas),
    Strategy(name="sfas", faces=16, windows=16, order=4, rule=sfas),
    Strategy(name="ffls", faces=8, windows=8, order=7, rule=ffls),
    Strategy(name="fslf", faces=8, windows=8, order=8, rule=fslf),
    Strategy(name="ofos", faces=8, windows=8, order=5, rule=ofos),
    Strategy(name="rfas", faces=8, windows=8, order=3, rule=rfas),
    Strategy(name="faces", faces=16, windows=0, order=1, rule=faces),
    Strategy(name="spectrograms", faces=0, windows=16, order=2, rule=spectrograms),
)

#: Name -> strategy: the paper's six in its order, then its V-only and A-only rows.
STRATEGIES: Mapping[str, Strategy] = {strategy.name: strategy for strategy in _STRATEGIES}


def _no_video(pairs: FusionInput) -> Tensor:  # noqa: ARG001 - as every rule
    raise FusionError("tokens: found faces and spectrograms, expected codes of both; choose another strategy")


#: What VQ-MAE-AV and its versions for one modality read of 2 s: 50 faces, 100 spectra, or both, as codes. They fuse
#: them in the encoder: see `train.models.vq_mae_av`.
TOKEN_STRATEGIES: Mapping[str, Strategy] = {
    name: Strategy(name=name, faces=faces, windows=windows, order=order, rule=_no_video, tokens=True)
    for order, (name, faces, windows) in enumerate(
        (("vq-mae-v", 50, 0), ("vq-mae-a", 0, 100), ("vq-mae-av", 50, 100)), len(STRATEGIES) + 1
    )
}

#: Name -> strategy, of this module.
BUILT_IN: Mapping[str, Strategy] = {**STRATEGIES, **TOKEN_STRATEGIES}

#: Name -> strategy of one's own: see `train.own_code`.
_registered: dict[str, Strategy] = {}

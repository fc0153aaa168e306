"""Which tokens of a clip a masked autoencoder sees, and which hidden ones it has to predict.

A tube is a place in the picture over all time steps of a modality: it is visible as a whole or not at all, because
what is hidden at one instant only could be copied from the next. Spectrogram windows overlap by half: what the right
half of one shows is in the left half of the next, so that a tube that shows sound has two places, half a window apart.

Strategies put faces and spectrograms on different tokens (above and below, one after the other) or on the same ones
(added, alternating frames of a tubelet); where each modality has tokens of its own, it has a ratio of its own, and can
be hidden wholly. Then the other modality has more visible tokens: every clip has equally many, so that shapes are
static. Where they do not fill whole tubes, the last one is visible for a part of its time; with the built-in recipes
and 14 x 14 places they do.

Everything is drawn from (seed, epoch, draw, clip id). Shape suffixes: B clips; t, h, w patches; N = t h w tokens, n of
them visible, m decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.augment import ClipDraws, TransformError
from train.data.missing import FACES, SOUND, WHOLLY
from train.data.transforms import downsample
from train.fusion import FusionInput, Strategy
from train.models.videomae import EncoderConfig, split_patches

Codes = npt.NDArray[np.int8]

#: Codes of a token: what it shows.
SHOWS_FACES, SHOWS_SOUND = 1, 2
SHOWS_BOTH = SHOWS_FACES | SHOWS_SOUND
#: Code of a clip that lacks a modality (`train.data.missing.WHOLLY`) -> code of that modality.
LACKS = {code: {FACES: SHOWS_FACES, SOUND: SHOWS_SOUND}[modality] for code, modality in WHOLLY.items()}

#: Side of the cells of running cell masking, in patches.
_CELL = 2


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How much is hidden. Raises TransformError."""

    faces_ratio: float = 0.9
    """Hidden share of the tokens that show faces, or both."""
    sound_ratio: float = 0.9
    """Hidden share of the tokens that show spectrograms only."""
    hide_modality: float = 0.0
    """Probability that one modality of a clip, either equally likely, is hidden wholly."""
    decoded: float = 1.0
    """Share of the hidden tokens that is predicted, chosen by running cells (VideoMAE V2)."""

    def __post_init__(self) -> None:
        rules = {
            "faces_ratio": (0 < self.faces_ratio < 1, "above 0, below 1"),
            "sound_ratio": (0 < self.sound_ratio < 1, "above 0, below 1"),
            "hide_modality": (0 <= self.hide_modality <= 1, "0 to 1"),
            "decoded": (0 < self.decoded <= 1, "above 0, up to 1"),
        }
        for name, (satisfied, expected) in rules.items():
            if not satisfied:
                raise TransformError(f"{name}: found {getattr(self, name)}, expected {expected}")


class Masks(NamedTuple):
    """Masks of B clips, on the CPU."""

    visible: Tensor
    """int64 [B, n] ascending tokens that the encoder sees."""
    decoded: Tensor
    """int64 [B, m] ascending hidden tokens that the decoder predicts."""
    hidden_modality: tuple[int, ...]
    """B codes of the modality that is hidden wholly: SHOWS_FACES, SHOWS_SOUND, or 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLayout:
    """What each token of a strategy's video shows."""

    codes: Codes
    """[t, h, w] SHOWS_FACES, SHOWS_SOUND or SHOWS_BOTH."""
    instants: npt.NDArray[np.int64]
    """[t, h, w] when a token's frames are, as its rank among the instants of all; 0 where that depends on the clip."""
    groups: dict[int, npt.NDArray[np.int64]] = field(init=False)
    """Code -> its tokens by tube, [tubes, steps]."""

    def __post_init__(self) -> None:
        codes = np.unique(self.codes).tolist()
        groups = {code: _tubes(self.codes == code, paired=bool(code & SHOWS_SOUND)) for code in codes}
        object.__setattr__(self, "groups", groups)

    @classmethod
    def of(cls, strategy: Strategy, encoder: EncoderConfig) -> TokenLayout:
        """Where a strategy puts either modality, found by fusing a picture of only ones with one of only zeros.

        A token shows both if the strategy says so, or if it depends on the clip.
        """
        keys = tuple(map(str, range(16)))
        side = encoder.input[-1]

        def fuse(faces: Tensor, sound: Tensor) -> Tensor:
            """Values of a modality's images, [F] and [W] -> their means in each token, [B, t, h, w]."""
            pairs = FusionInput(
                faces=faces.view(-1, 1, 1, 1).expand(len(keys), -1, 3, side, side),
                spectrograms=sound.view(-1, 1, 1, 1).expand(len(keys), -1, 1, side, side),
                keys=keys,
            )
            patches = split_patches(downsample(strategy(pairs), encoder.input), encoder.patch)
            return patches.flatten(2).mean(dim=2).unflatten(1, encoder.grid)

        faces, sound = torch.ones(strategy.faces), torch.ones(strategy.windows)
        by_faces, by_sound = fuse(faces, 0 * sound), fuse(0 * faces, sound)
        codes = SHOWS_FACES * (by_faces != 0).any(dim=0).int() + SHOWS_SOUND * (by_sound != 0).any(dim=0).int()
        weighted = fuse(faces.cumsum(0), sound.cumsum(0)) / (by_faces + by_sound)
        fixed = bool((weighted == weighted[0]).all())
        instants = weighted[0] if fixed else torch.zeros(encoder.grid)
        return cls(
            codes=np.where(codes, codes, SHOWS_BOTH).astype(np.int8),
            instants=np.unique(instants.round(decimals=3), return_inverse=True)[1].reshape(encoder.grid),
        )

    def visible_tubes(self, settings: MaskSettings) -> dict[int, int]:
        """Code -> tubes that stay visible. As in VideoMAE, the number of hidden ones is rounded down."""
        ratios = {code: settings.sound_ratio if code == SHOWS_SOUND else settings.faces_ratio for code in self.groups}
        return {code: len(tubes) - int(ratios[code] * len(tubes)) for code, tubes in self.groups.items()}

    def sizes(self, settings: MaskSettings) -> tuple[int, int]:
        """n visible and m decoded tokens, the same for every clip.

        Raises TransformError where one modality has fewer tokens than are visible, so that the other cannot be hidden.
        """
        visible = sum(self.groups[code].shape[1] * count for code, count in self.visible_tubes(settings).items())
        fewest = min(group.size for group in self.groups.values())
        if settings.hide_modality and self.separable and visible > fewest:
            raise TransformError(
                f"masks: found {visible} visible tokens, expected at most the {fewest} of one modality, so that the "
                "other one can be hidden; raise faces_ratio and sound_ratio, or set hide_modality = 0"
            )
        return visible, max(1, round(settings.decoded * (self.codes.size - visible)))

    @property
    def separable(self) -> bool:
        """Whether each modality has tokens of its own, and no token shows both."""
        return self.groups.keys() == {SHOWS_FACES, SHOWS_SOUND}

    def draw(
        self, settings: MaskSettings, draws: ClipDraws, missing: Sequence[int] = (), hidden: int | None = None
    ) -> Masks:
        """Masks of some clips, B codes of which may say what they lack: of those no modality is hidden wholly. Pure.

        `hidden` is the modality that is hidden of every clip, whatever was drawn.
        """
        visible_count, decoded_count = self.sizes(settings)
        visible, decoded, hidden_modality = [], [], []
        lacking = missing or (0,) * len(draws.keys)
        for generator, lacks in zip(draws.generators("mask"), lacking, strict=True):
            drawn = 0 if lacks else self._hidden_modality(settings, generator)
            modality = drawn if hidden is None else hidden
            seen = self._visible(settings, modality if self.separable else 0, visible_count, generator)
            unseen = np.setdiff1d(np.arange(self.codes.size), seen)
            visible.append(np.sort(seen))
            decoded.append(self._decoded(unseen, decoded_count, generator))
            hidden_modality.append(modality)
        return Masks(
            torch.from_numpy(np.array(visible, dtype=np.int64).reshape(-1, visible_count)),
            torch.from_numpy(np.array(decoded, dtype=np.int64).reshape(-1, decoded_count)),
            tuple(hidden_modality),
        )

    def _hidden_modality(self, settings: MaskSettings, generator: np.random.Generator) -> int:
        hides, which = generator.random(2)
        both = bool(self.groups.keys() - {SHOWS_FACES}) and bool(self.groups.keys() - {SHOWS_SOUND})
        if not both or hides >= settings.hide_modality:
            return 0
        return SHOWS_FACES if which < 0.5 else SHOWS_SOUND

    def _visible(
        self, settings: MaskSettings, hidden: int, count: int, generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """[n] visible tokens; where a modality is hidden, all are of the other one."""
        tubes = self.visible_tubes(settings)
        chosen = [
            generator.permutation(group)[: len(group) if hidden else tubes[code]].ravel()
            for code, group in self.groups.items()
            if code != hidden
        ]
        return np.concatenate(chosen)[:count]

    def _decoded(
        self, hidden: npt.NDArray[np.int64], count: int, generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """[m] of the hidden tokens: first those on which a cell's moving half is, then others."""
        start = int(generator.integers(_CELL**2))
        if count == len(hidden):
            return hidden
        step, row, column = np.unravel_index(hidden, self.codes.shape)
        phase = (_CELL * (row % _CELL) + column % _CELL + step + start) % _CELL**2
        order = np.lexsort((generator.random(len(hidden)), phase >= _CELL**2 // 2))
        return np.sort(hidden[order[:count]])


def _tubes(shown: npt.NDArray[np.bool_], *, paired: bool) -> npt.NDArray[np.int64]:
    """[t, h, w] which tokens -> their indices by tube, [tubes, tokens of one].

    If `paired`, a tube has the places in columns c and c + w / 2. Where time steps or halves differ, each token is a
    tube of its own.
    """
    steps, height, width = shown.shape
    halves = 2 if paired and width % 2 == 0 else 1
    # One axis of places that differ, one of those that belong to a tube.
    apart = [array.reshape(steps, height, halves, -1) for array in (shown, np.arange(shown.size).reshape(shown.shape))]
    tubes, tokens = (array.transpose(1, 3, 0, 2).reshape(height * width // halves, -1) for array in apart)
    some, places = tubes.any(axis=0), tubes.any(axis=1)
    if tubes[places][:, some].all():
        return tokens[places][:, some]
    return tokens[tubes][:, None]

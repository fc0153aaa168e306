"""An encoder of the user's own: any module that maps a video to features, under the head of `Classifier`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from manifests.records import SchemaError, from_json
from manifests.schema import CROP_PX, FRAMES
from train.models.checkpoint_formats import WeightsError
from train.models.videomae import CHANNELS, InputRange
from train.own_code import OwnCode, OwnCodeError, call_own, check_sha256, load_code

#: Largest side of the pictures that an encoder may ask for.
_MAX_SIDE = 1024


@dataclass(frozen=True, kw_only=True)
class OwnEncoderConfig:
    """What the trainer has to know of an encoder of the user's own; fields are named as those of `EncoderConfig`."""

    path: str
    """Import path of the function that builds it."""
    sha256: str
    """Of the module's file."""
    width: int
    """D, channels of the features: found by a dry run."""
    depth: int
    """Number of its `blocks`, 0 without such a list."""
    side: int
    """Rows and columns of the pictures that it takes."""
    input_range: str = "imagenet"
    """An `InputRange`: RGB standardised by ImageNet's mean and deviation, or in 0..1 (`unit`)."""
    layer_norm_eps: float = 1e-6
    """Of the LayerNorm before the last layer."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 0 or not 1 <= self.side <= _MAX_SIDE:
            raise ValueError(f"found {self}, expected a width from 1 and a side of 1 to {_MAX_SIDE} pixels")
        if self.input_range not in get_args(InputRange):
            raise ValueError(f"found input_range {self.input_range!r}, expected {', '.join(get_args(InputRange))}")

    @property
    def input(self) -> tuple[int, int, int]:
        """T, H, W that the transform makes: the encoder's size, or 224, which the encoder then resizes."""
        side = CROP_PX if CROP_PX % self.side else self.side
        return FRAMES, side, side


class OwnEncoder(nn.Module):
    """Video -> tokens, by a module of the user's own."""

    def __init__(self, module: nn.Module, config: OwnEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.module = module

    def forward(self, video: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as Encoder
        """[B, 3, 16, H, W] -> tokens [B, N, D], one for a module that gives features [B, D]; the noise is not used.

        Raises OwnCodeError for outputs of another shape.
        """
        if not len(video):  # of a rank without clips in the last step, which few modules take
            return video.new_zeros(0, 1, self.config.width)
        side = self.config.side
        if video.shape[-1] != side:
            frames = functional.interpolate(
                video.transpose(1, 2).flatten(0, 1), size=(side, side), mode="bilinear", antialias=True
            )
            video = frames.unflatten(0, (len(video), -1)).transpose(1, 2)
        tokens = getattr(self.module, "forward_features", self.module)(video)
        return _as_tokens(tokens, len(video), self.config.path)


def build_encoder(path: str, *, gradient_checkpointing: bool = False) -> tuple[OwnEncoder, OwnCode]:
    """Import a function and build its encoder; a dry run on one clip of zeros finds the width of its features.

    Raises OwnCodeError for one that cannot be used, in one line.
    """
    code = load_code(path, "ENCODER")
    where = f"ENCODER={path}"
    if not callable(code.value):
        raise OwnCodeError(f"{where}: found {type(code.value).__name__}, expected a function that returns an nn.Module")
    module = call_own(f"{where}: {code.name}() failed", code.value)
    if not isinstance(module, nn.Module):
        raise OwnCodeError(f"{where}: {code.name}() returned {type(module).__name__}, expected an nn.Module")
    side, blocks = _input_side(module, where), getattr(module, "blocks", None)
    video = torch.zeros(1, CHANNELS, FRAMES, side, side)
    module.eval()
    with torch.no_grad():
        given = call_own(
            f"{where}: failed on a clip of zeros {tuple(video.shape)}",
            lambda: getattr(module, "forward_features", module)(video),
        )
    tokens = _as_tokens(given, 1, path)
    if not torch.isfinite(tokens).all():
        raise OwnCodeError(f"{where}: found features of a clip of zeros that are not finite, expected finite numbers")
    _check_state(module, where)
    if gradient_checkpointing and hasattr(module, "set_grad_checkpointing"):
        call_own(f"{where}: set_grad_checkpointing() failed", module.set_grad_checkpointing)
    try:
        config = OwnEncoderConfig(
            path=path,
            sha256=code.sha256,
            width=tokens.shape[-1],
            depth=len(blocks) if isinstance(blocks, nn.ModuleList | nn.Sequential) else 0,
            side=side,
            input_range=getattr(module, "input_range", "imagenet"),
        )
    except ValueError as error:
        raise OwnCodeError(f"{where}: {error}") from error
    return OwnEncoder(module, config), code


def recorded_config(settings: Mapping[str, Any], where: str) -> OwnEncoderConfig | None:
    """The configuration of an encoder of somebody's own in that of a classifier; None for a built-in encoder.

    Raises WeightsError for one that cannot be read.
    """
    encoder = settings.get("encoder")
    if not isinstance(encoder, dict) or "path" not in encoder:
        return None
    try:
        return from_json(OwnEncoderConfig, encoder, f"{where}: encoder")
    except SchemaError as error:
        raise WeightsError(f"{error}; train or export it again") from error


def rebuild_encoder(recorded: OwnEncoderConfig, path: str | None, where: str) -> OwnEncoder:
    """The encoder that a classifier was trained with, from code that the user names.

    Raises WeightsError if none is named, OwnCodeError for code that cannot be imported or has changed.
    """
    if path is None:
        raise WeightsError(
            f"{where}: was trained with the encoder {recorded.path}, whose code is not in it and is run only if you "
            f"name it: add --encoder {recorded.path} (ENCODER=) where its module can be imported"
        )
    check_sha256(load_code(path, "ENCODER"), recorded.sha256, where)
    encoder, _ = build_encoder(path)
    found = {**asdict(encoder.config), "path": recorded.path}
    if found != asdict(recorded):
        raise OwnCodeError(f"{where}: found an encoder {found}, expected {asdict(recorded)} as it was trained with")
    return encoder


def _as_tokens(given: Any, clips: int, path: str) -> Tensor:
    """Features [B, D] -> [B, 1, D]; tokens as they are."""
    shaped = isinstance(given, Tensor) and given.ndim in (2, 3) and len(given) == clips and math.prod(given.shape)
    if not shaped or not given.is_floating_point():
        found = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise OwnCodeError(
            f"ENCODER={path}: returned {found} for {clips} clips, expected float features ({clips}, D) or tokens "
            f"({clips}, N, D)"
        )
    return given if given.ndim == 3 else given[:, None]


def _input_side(module: nn.Module, where: str) -> int:
    """Side of the pictures: the module's `input_size` or `img_size`, one number or a sequence that ends in two."""
    given = getattr(module, "input_size", getattr(module, "img_size", CROP_PX))
    sides = [given, given] if isinstance(given, int) else list(given) if isinstance(given, tuple | list) else []
    if len(sides) < 2 or sides[-1] != sides[-2] or not isinstance(sides[-1], int) or not 1 <= sides[-1] <= _MAX_SIDE:
        raise OwnCodeError(
            f"{where}: found input_size {given!r}, expected the side of a square up to {_MAX_SIDE} pixels"
        )
    return sides[-1]


def _check_state(module: nn.Module, where: str) -> None:
    """Raise OwnCodeError for a state that checkpoints cannot hold."""
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or not torch.isfinite(value).all():
            found = "NaN or infinity" if isinstance(value, Tensor) else type(value).__name__
            raise OwnCodeError(
                f"{where}: {name}: found {found}, expected finite tensors; make it a non-persistent buffer"
            )
    if not any(True for _ in module.parameters()):
        raise OwnCodeError(
            f"{where}: found a module without parameters ({type(module).__name__}), expected some to train"
        )

"""What a training costs: operations a clip, and how many of them a device performs in a second."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from train.models.mae import DecoderConfig
from train.models.videomae import CHANNELS, EncoderConfig
from train.models.vq_mae_av import VqMaeConfig

#: Forward passes that a training step is worth: one forward, and twice as much backward.
TRAINING_PASSES = 3
#: Side of the matrices that a device is measured with, and how often they are multiplied.
_MATRIX_SIZES = {"cpu": 1024, "cuda": 8192}
_REPEATS = {"cpu": 3, "cuda": 30}


def forward_flop(encoder: EncoderConfig | VqMaeConfig) -> float:
    """Floating-point operations of one clip's forward pass, two for each multiply-add; 1.19e12 for ViT-L."""
    if isinstance(encoder, VqMaeConfig):
        return token_flop(encoder)
    embedding = encoder.tokens * CHANNELS * math.prod(encoder.patch) * encoder.width
    return 2.0 * embedding + _blocks_flop(encoder, encoder.tokens)


def pretraining_flop(encoder: EncoderConfig, decoder: DecoderConfig, visible: int, decoded: int) -> float:
    """The same of one clip's forward pass of a masked autoencoder, of which so many tokens are visible and decoded.

    2.8e11 for ViT-L with its decoder of 12 blocks, 160 of 1,568 tokens visible and all others decoded.
    """
    patch, width = CHANNELS * math.prod(encoder.patch), encoder.width
    ends = visible * patch * width + visible * width * decoder.width + decoded * decoder.width * patch
    return 2.0 * ends + _blocks_flop(encoder, visible) + _blocks_flop(decoder, visible + decoded)


def token_flop(model: VqMaeConfig, visible: Mapping[str, int] | None = None, *, decodes: bool = False) -> float:
    """The same of a VQ-MAE-AV, of whose tokens so many are visible, all if None; with all tokens decoded, too.

    8.4e9 with 160 tokens of sound visible, 1.38e10 with 360 of faces: 4.2 and 6.9 GMAC with the decoder.
    """
    tokens = {name: shape.tokens for name, shape in model.shapes.items()}
    work = _fused_flop(model, visible or tokens, model.depth, model.encoder_fusion)
    if decodes:
        work += _fused_flop(model, tokens, model.decoder_depth, model.decoder_fusion)
        codes = {name: shape.tokens * shape.codes_per_token for name, shape in model.shapes.items()}
        work += sum(2.0 * codes[name] * shape.code_width * shape.codes for name, shape in model.shapes.items())
    return work


def _fused_flop(model: VqMaeConfig, tokens: Mapping[str, int], depth: int, fusion: str) -> float:
    """Of the blocks of an encoder or a decoder."""
    width, together = model.width, sum(tokens.values())

    def block(queries: int, keys: int) -> float:
        linear = queries * (2 * width**2 + 2 * width * model.mlp) + keys * 2 * width**2
        return 2.0 * (linear + 2 * queries * keys * width)

    if fusion == "saf":
        return depth * block(together, together)
    return sum(block(count, together) + depth * block(count, count) for count in tokens.values())


def _blocks_flop(shape: EncoderConfig | DecoderConfig, tokens: int) -> float:
    block = tokens * (4 * shape.width**2 + 2 * shape.width * shape.mlp) + 2 * tokens**2 * shape.width
    return 2.0 * shape.depth * block


def measure_flops(device: torch.device) -> float:
    """Floating-point operations a second of a device that multiplies large matrices; takes a moment.

    float32 on a CPU, bfloat16 on a GPU, as in training.
    """
    side, repeats = _MATRIX_SIZES[device.type], _REPEATS[device.type]
    one = torch.ones(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    one @ one
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        one @ one
    synchronize(device)
    return repeats * 2 * side**3 / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    """Wait for all work that was submitted to a GPU; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def format_duration(seconds: float) -> str:
    """A duration in days, hours, minutes or seconds."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

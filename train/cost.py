"""What a training costs on a CPU, told before it begins."""

from __future__ import annotations

import math
import time

import torch

from train.models.videomae import CHANNELS, EncoderConfig

#: Passes' worth of work in a training step: forward, and twice as much backward.
TRAINING_PASSES = 3
_SIDE = 1024
_REPEATS = 3


def forward_flop(encoder: EncoderConfig) -> float:
    """Floating-point operations of one clip's forward pass, two for each multiply-add; 1.19e12 for ViT-L."""
    tokens, width = encoder.tokens, encoder.width
    embedding = tokens * CHANNELS * math.prod(encoder.patch) * width
    block = tokens * (4 * width**2 + 2 * width * encoder.mlp) + 2 * tokens**2 * width
    return 2.0 * (embedding + encoder.depth * block)


def measured_rate() -> float:
    """Floating-point operations a second that this machine's CPU multiplies float32 matrices with; takes a moment."""
    one = torch.ones(_SIDE, _SIDE)
    one @ one
    began = time.perf_counter()
    for _ in range(_REPEATS):
        one @ one
    return _REPEATS * 2 * _SIDE**3 / (time.perf_counter() - began)


def told(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"

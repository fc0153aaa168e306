"""VideoMAE's masked autoencoder: the encoder sees the visible patches of a clip, a narrower decoder paints the others.

Shape suffixes as in `train.models.videomae`; n visible tokens, m decoded ones, P = 3 x pixels of a tubelet.

Module names are those of the official pre-training checkpoints, so that state dicts have the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from train.models.instants import QUIET, attend_within_instants
from train.models.videomae import (
    CHANNELS,
    ENCODERS,
    Block,
    Encoder,
    EncoderConfig,
    encoder_name,
    initialise,
    join_patches,
    sinusoidal_positions,
    split_patches,
    take_tokens,
)

#: Added to the deviation of a patch before dividing by it, as in VideoMAE.
_FLAT = 1e-6


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder. Raises ValueError where it contradicts itself."""

    width: int
    """D, channels of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """A, attention heads."""
    mlp: int
    """M, hidden width of a block's MLP."""
    layer_norm_eps: float = 1e-6
    final_norm_eps: float = 1e-6
    """Of the norm before the last layer."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.mlp)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or self.width % (2 * self.heads):
            raise ValueError(f"decoder: found {self}, expected sizes from 1 and a width that 2 x heads divide")


#: Decoder of each encoder, as VideoMAE's official models have it; a recipe may choose another depth.
DECODERS: Mapping[str, DecoderConfig] = {
    "tiny": DecoderConfig(width=48, depth=2, heads=3, mlp=96),
    "small": DecoderConfig(width=192, depth=4, heads=3, mlp=768),
    "base": DecoderConfig(width=384, depth=4, heads=6, mlp=1536),
    "large": DecoderConfig(width=512, depth=12, heads=8, mlp=2048),
    "huge": DecoderConfig(width=640, depth=12, heads=8, mlp=2560),
}
assert DECODERS.keys() == ENCODERS.keys()


def decoder_for(encoder: EncoderConfig, depth: int | None = None) -> DecoderConfig:
    """The decoder of a built-in encoder, of another depth if given. Raises KeyError for another encoder."""
    decoder = DECODERS[encoder_name(encoder)]
    return decoder if depth is None else replace(decoder, depth=depth)


class Decoder(nn.Module):
    """Blocks over all given tokens, then norm and linear map of the last ones to pixels."""

    def __init__(self, config: DecoderConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.final_norm_eps)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, tokens: Tensor, last: int) -> Tensor:
        """[B, n + m, D] -> [B, m, P] of the `last` m tokens."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, -last:]))


class MaskedAutoencoder(nn.Module):
    """Video and a mask -> pixels of hidden patches. The encoder has a norm over its output (`final_norm`)."""

    decoder_positions: Tensor

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        frames, rows, columns = encoder.patch
        self.encoder = Encoder(replace(encoder, final_norm=True), gradient_checkpointing=gradient_checkpointing)
        self.encoder_to_decoder = nn.Linear(encoder.width, decoder.width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder = Decoder(decoder, CHANNELS * frames * rows * columns)
        table = sinusoidal_positions(encoder.tokens, decoder.width)
        self.register_buffer("decoder_positions", table, persistent=False)
        self.encoder_to_decoder.apply(initialise)
        self.decoder.apply(initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @torch.no_grad()
    def begin_within_instants(self, instants: Tensor) -> None:
        """Change random weights, so that the decoder at first attends within the instant: see `train.models.instants`.

        `instants` int64 [N] are those of the tokens. Nothing is changed where all have the same one.
        """
        if len(instants.unique()) < 2:
            return
        self.encoder_to_decoder.weight *= QUIET
        for block in self.decoder.blocks:
            query, key, _ = block.attn.qkv.weight.chunk(3)
            attend_within_instants(query, key, block.attn.heads, self.decoder_positions[0], instants)

    def forward(self, video: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
        """Predicted pixels [B, m, P] of the decoded tokens, in the order of `patch_targets`.

        Args:
            video: [B, 3, T, H, W], scaled to the encoder's `config.input_range`.
            visible: int64 [B, n] tokens that the encoder sees.
            decoded: int64 [B, m] hidden tokens that are predicted: all, or with decoder masking some of them.
        """
        seen = self.encoder_to_decoder(self.encoder(video, visible=visible))
        positions = self.decoder_positions.to(seen.dtype)
        seen = seen + take_tokens(positions, visible)
        hidden = self.mask_token.to(seen.dtype) + take_tokens(positions, decoded)
        return self.decoder(torch.cat([seen, hidden], dim=1), decoded.shape[1])


def patch_targets(
    pixels: Tensor, patch: tuple[int, int, int], *, normalized: bool = True, motion: bool = False
) -> Tensor:
    """RGB [B, 3, T, H, W] in 0..1 -> what each patch should be painted as, float32 [B, N, P].

    A patch has its pixels in the order frames, rows, columns, colour.

    Args:
        pixels: in 0..1.
        patch: frames, rows and columns of a tubelet.
        normalized: subtract the mean of each patch and colour, divide by the unbiased deviation, as VideoMAE does.
        motion: keep the first frame of each tubelet, its appearance, and replace the others by their difference to it,
            its motion: joint masked appearance and motion modelling of MAE-DFER, both with the same weight.
    """
    patches = split_patches(pixels.float(), patch)  # [B, N, 3, pixels]
    if normalized:
        centred = patches - patches.mean(dim=-1, keepdim=True)
        # `var` would compute the mean once more, and takes longer.
        variance = centred.square().sum(dim=-1, keepdim=True) / (centred.shape[-1] - 1)
        patches = centred / (variance.sqrt() + _FLAT)
    if motion:
        frames = patches.unflatten(-1, (patch[0], -1))
        patches = torch.cat([frames[..., :1, :], frames[..., 1:, :] - frames[..., :1, :]], dim=-2).flatten(-2)
    return patches.transpose(2, 3).flatten(2)


def paint(pixels: Tensor, predicted: Tensor, decoded: Tensor, patch: tuple[int, int, int], *, motion: bool) -> Tensor:
    """Pixels [B, 3, T, H, W] in which the decoded patches are painted as predicted, on the scale of the true patches.

    A normalized target has lost mean and deviation of its patch; as VideoMAE's pictures do, these are taken from the
    truth. Arguments as of `patch_targets` and `MaskedAutoencoder.forward`.
    """
    patches = split_patches(pixels.float(), patch)
    painted = predicted.float().unflatten(-1, (-1, CHANNELS)).transpose(2, 3)  # [B, m, 3, pixels]
    if motion:
        frames = painted.unflatten(-1, (patch[0], -1))
        painted = torch.cat([frames[..., :1, :], frames[..., 1:, :] + frames[..., :1, :]], dim=-2).flatten(-2)
    rows = torch.arange(len(pixels), device=pixels.device)[:, None]
    true = patches[rows, decoded]
    scale = true.var(dim=-1, unbiased=True, keepdim=True).sqrt() + _FLAT
    result = patches.clone()
    result[rows, decoded] = painted * scale + true.mean(dim=-1, keepdim=True)
    return join_patches(result, _grid(pixels, patch), patch)


def hide_patches(pixels: Tensor, visible: Tensor, patch: tuple[int, int, int], value: float = 0.5) -> Tensor:
    """Pixels [B, 3, T, H, W] in which all patches but the visible ones, int64 [B, n], have one value."""
    patches = split_patches(pixels.float(), patch)
    rows = torch.arange(len(pixels), device=pixels.device)[:, None]
    result = torch.full_like(patches, value)
    result[rows, visible] = patches[rows, visible]
    return join_patches(result, _grid(pixels, patch), patch)


def _grid(pixels: Tensor, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """t, h, w: how many patches fit into [B, 3, T, H, W]."""
    frames, rows, columns = (size // step for size, step in zip(pixels.shape[2:], patch, strict=True))
    return frames, rows, columns


def reconstruction_losses(predicted: Tensor, targets: Tensor, decoded: Tensor, counted: Tensor | None = None) -> Tensor:
    """[B, m, P], all targets [B, N, P], decoded [B, m] -> mean squared error of each clip [B], float32.

    Of some tokens only with bool [B, m] `counted`; 0 for a clip without any.
    """
    losses = (predicted.float() - take_tokens(targets, decoded)).square().mean(dim=2)
    if counted is None:
        return losses.mean(dim=1)
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

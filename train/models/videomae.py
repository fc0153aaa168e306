"""VideoMAE's encoder, a plain vision transformer over space-time patches, with a linear classifier on its mean token.

Shape suffixes: B clips, T frames, H rows, W columns of pixels; t, h, w the same in patches; N = t h w tokens,
D width, M hidden width of the MLP, A attention heads, C classes.

Module names are those of the official VideoMAE checkpoints, so that state dicts have the same keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - everybody calls it F
from torch.utils.checkpoint import checkpoint

CHANNELS = 3

Positions = Literal["sinusoidal", "stored"]
InputRange = Literal["imagenet", "unit"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of an encoder and what its weights expect. Raises ValueError where it contradicts itself."""

    width: int
    """D, channels of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """A, attention heads; they share the width."""
    mlp: int
    """M, hidden width of a block's MLP."""
    patch: tuple[int, int, int] = (2, 16, 16)
    """Frames, rows and columns of a tubelet."""
    input: tuple[int, int, int] = (16, 224, 224)
    """T, H, W of a clip."""
    layer_norm_eps: float = 1e-6
    positions: Positions = "sinusoidal"
    """Whether the position table is computed or belongs to the weights."""
    final_norm: bool = False
    """LayerNorm over the output tokens, as encoders have during pre-training."""
    input_range: InputRange = "imagenet"
    """RGB in 0..1 as it is (`unit`), or standardised by ImageNet's mean and deviation."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.mlp, *self.patch, *self.input)
        if len(sizes) != 10 or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"encoder: found {self}, expected integer sizes of at least 1, patch and input in T, H, W")
        if self.width % (2 * self.heads):
            raise ValueError(f"encoder: found width {self.width}, expected a multiple of 2 x {self.heads} heads")
        if any(size % step for size, step in zip(self.input, self.patch, strict=True)):
            raise ValueError(f"encoder: found input {self.input}, expected multiples of the patch {self.patch}")
        if not (isinstance(self.layer_norm_eps, float) and 0 < self.layer_norm_eps < 1):
            raise ValueError(f"encoder: found layer_norm_eps {self.layer_norm_eps!r}, expected one between 0 and 1")
        for value, known in ((self.positions, get_args(Positions)), (self.input_range, get_args(InputRange))):
            if value not in known:
                raise ValueError(f"encoder: found {value!r}, expected one of {', '.join(known)}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """t, h, w: how many patches fit into a clip."""
        frames, rows, columns = (size // step for size, step in zip(self.input, self.patch, strict=True))
        return frames, rows, columns

    @property
    def tokens(self) -> int:
        """N, tokens of a clip: 1,568 for 16x224x224 in tubelets of 2x16x16 (paper IV.C)."""
        return math.prod(self.grid)


#: Encoders by name. `small`, `base`, `large` and `huge` are VideoMAE's ViT-S/16 to ViT-H/16. `tiny` learns the demo
#: corpus from random weights on a CPU: a quarter of the rows and columns, each the mean of four, in 128 tokens, for
#: their number is what costs. As in the others no patch crosses a border between face and spectrogram.
ENCODERS: Mapping[str, EncoderConfig] = {
    "tiny": EncoderConfig(width=96, depth=3, heads=3, mlp=192, patch=(2, 14, 14), input=(16, 56, 56)),
    "small": EncoderConfig(width=384, depth=12, heads=6, mlp=1536),
    "base": EncoderConfig(width=768, depth=12, heads=12, mlp=3072),
    "large": EncoderConfig(width=1024, depth=24, heads=16, mlp=4096),
    "huge": EncoderConfig(width=1280, depth=32, heads=16, mlp=5120),
}

#: Fields that two encoders must have in common for the weights of one to fit the other.
ARCHITECTURE = ("width", "depth", "heads", "mlp", "patch")


def encoder_name(config: EncoderConfig) -> str:
    """Name of the encoder of the same architecture. Raises KeyError if there is none."""
    fields = attrgetter(*ARCHITECTURE)
    return {fields(encoder): name for name, encoder in ENCODERS.items()}[fields(config)]


def sinusoidal_positions(tokens: int, width: int) -> Tensor:
    """Fixed position table [1, N, D] over the flattened token index p.

    Channel 2i is sin(p / 10000^(2i/D)) and channel 2i+1 the cosine of it. Computed in float64 on the CPU
    whatever the default device, so that a model made on the meta device has its table too.
    """
    index = torch.arange(tokens, dtype=torch.float64, device="cpu")
    channel = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")
    angles = index[:, None] / 10_000 ** (channel / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()[None]


def resize_positions(table: Tensor, grid: tuple[int, int, int], target_grid: tuple[int, int, int]) -> Tensor:
    """Stored position table [1, N, D] of one patch grid (t, h, w) -> that of another, trilinearly interpolated."""
    if grid == target_grid:
        return table
    volume = table.unflatten(1, grid).movedim(-1, 1)  # [1, D, t, h, w]
    return F.interpolate(volume, size=target_grid, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)


def split_patches(video: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[B, 3, T, H, W] -> tubelets [B, N, 3, pixels], pixels in the order frames, rows, columns."""
    frames, rows, columns = patch
    patches = (
        video.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames))
    )  # [B, 3, t, frames, h, rows, w, columns]
    return patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(5).flatten(1, 3)


def join_patches(patches: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Tubelets [B, N, 3, pixels] -> [B, 3, T, H, W]: what `split_patches` made."""
    frames, rows, columns = patch
    apart = patches.unflatten(1, grid).unflatten(-1, (frames, rows, columns))  # [B, t, h, w, 3, frames, rows, columns]
    return apart.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """[B or 1, N, D], indices [B, n] -> [B, n, D]."""
    chosen = indices[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.expand(len(indices), -1, -1).gather(1, chosen)


def drop_path(branch: Tensor, rate: float, noise: Tensor) -> Tensor:
    """Stochastic depth: [B, N, D] with whole clips zeroed at the given rate and the others scaled up in return.

    `noise` [B] is uniform in [0, 1): a clip is kept where it is at least the rate.
    """
    kept = (noise >= rate).to(branch.dtype)[:, None, None]
    return branch * (kept / (1 - rate))


class BlockShape(Protocol):
    """What a transformer block must know, of an encoder or a decoder."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def heads(self) -> int:
        """A."""

    @property
    def mlp(self) -> int:
        """M."""

    @property
    def layer_norm_eps(self) -> float:
        """Of both norms."""


class PatchEmbed(nn.Module):
    """Linear map of each tubelet to a token.

    The weights are those of a convolution whose stride is its kernel, [D, 3, *patch]. They are applied as a matrix
    product, which is the same sum: some cuDNN releases run this convolution tens of times slower in bfloat16.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.input = (CHANNELS, *config.input)
        self.proj = nn.Conv3d(CHANNELS, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W] -> tokens [B, N, D], time first, then rows, then columns; or only the visible ones.

        `visible` [B, n] are indices of tokens: the others are not computed.
        """
        if video.shape[1:] != self.input:
            raise ValueError(f"video: found [B, {_sizes(video.shape[1:])}], expected [B, {_sizes(self.input)}]")
        patches = split_patches(video, self.proj.kernel_size).flatten(2)
        if visible is not None:
            patches = take_tokens(patches, visible)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Self-attention over all tokens; queries and values have a bias, keys have none."""

    def __init__(self, config: BlockShape) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(tokens, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, A, N, D/A] each
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, config: BlockShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm transformer block whose two branches are dropped at the given rate, where there is noise to decide."""

    def __init__(self, config: BlockShape, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, tokens: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; `noise` [B, 2], one number for each branch."""
        tokens = tokens + self._dropped(self.attn(self.norm1(tokens)), noise, 0)
        return tokens + self._dropped(self.mlp(self.norm2(tokens)), noise, 1)

    def _dropped(self, branch: Tensor, noise: Tensor | None, number: int) -> Tensor:
        return branch if noise is None or not self.drop_rate else drop_path(branch, self.drop_rate, noise[:, number])


class Encoder(nn.Module):
    """Video -> tokens. `drop_rate` is that of the last block; from the first, which has 0, it rises linearly.

    Nothing is random in here: what is dropped is decided by the noise that a training passes in.
    With `gradient_checkpointing` the blocks keep only their inputs for the backward pass, which computes them again.
    """

    pos_embed: Tensor

    def __init__(self, config: EncoderConfig, *, drop_rate: float = 0.0, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ValueError(f"encoder: found drop path rate {drop_rate}, expected one from 0 to below 1")
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embed = PatchEmbed(config)
        table = sinusoidal_positions(config.tokens, config.width)
        self.register_buffer("pos_embed", table, persistent=config.positions == "stored")
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(Block(config, drop_rate * index / last) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()
        self.apply(initialise)

    def forward(self, video: Tensor, noise: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W], scaled to `config.input_range` -> tokens [B, N, D].

        With `noise`, [B, 2 * depth] uniform in [0, 1), branches of blocks are dropped at their rates. Of `visible`,
        int64 [B, n], only these tokens are computed and see each other: [B, n, D]. Raises ValueError for a video of
        another size.
        """
        tokens = self.patch_embed(video, visible)
        positions = self.pos_embed if visible is None else take_tokens(self.pos_embed, visible)
        tokens = tokens + positions.to(tokens.dtype)  # under autocast the stream stays in 16 bits
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            given = (tokens,) if noise is None else (tokens, noise[:, 2 * index : 2 * index + 2])
            tokens = checkpoint(block, *given, use_reentrant=False) if recompute else block(*given)
        return self.norm(tokens)


class Head(nn.Sequential):
    """LayerNorm and Linear on the mean token, in float32 under autocast too."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> logits [B, C]."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


class Classifier(nn.Module):
    """Encoder, mean over its tokens, LayerNorm, Linear (paper III.C: a single layer as the head).

    `head_dropout` is the rate at which the Linear layer's inputs are dropped; its initial weights, of a truncated
    normal distribution of deviation 0.02, are multiplied by `head_init_scale`: as VideoMAE's `modeling_finetune.py`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        classes: int,
        *,
        drop_rate: float = 0.0,
        head_dropout: float = 0.0,
        head_init_scale: float = 1.0,
        gradient_checkpointing: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        """`encoder` is one of the user's own in place of the one of `config`, which is then its own, too."""
        super().__init__()
        if not 0 <= head_dropout < 1:
            raise ValueError(f"classifier: found head dropout {head_dropout}, expected one from 0 to below 1")
        options = {"drop_rate": drop_rate, "gradient_checkpointing": gradient_checkpointing}
        self.encoder = Encoder(config, **options) if encoder is None else encoder
        self.head_dropout = head_dropout
        self.fc_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(head_init_scale)

    @property
    def noise_per_clip(self) -> int:
        """Numbers in a row of the noise that `forward` takes: two for each block, then one for each channel."""
        return 2 * self.encoder.config.depth + (self.encoder.config.width if self.head_dropout else 0)

    def features(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W] -> mean token [B, D], float32 under autocast too: the features of a frozen encoder."""
        return self.encoder(video, noise).mean(dim=1, dtype=torch.float32)

    def classify(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mean token [B, D] -> logits [B, C], float32 under autocast too; `noise` [B, D] decides what is dropped."""
        with torch.autocast(features.device.type, enabled=False):
            normed = self.fc_norm(features.float())
            if noise is not None and self.head_dropout:
                normed = normed * ((noise >= self.head_dropout).to(normed.dtype) / (1 - self.head_dropout))
            return self.head(normed)

    def forward(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """[B, 3, T, H, W], scaled to the encoder's `config.input_range` -> logits [B, C].

        Training passes `noise` [B, noise_per_clip], uniform in [0, 1), which decides what is dropped; without it
        nothing is. It is drawn from the clips' ids, so that neither micro-batches nor ranks change the result.
        """
        if noise is None:
            return self.classify(self.features(video))
        blocks = 2 * self.encoder.config.depth
        return self.classify(self.features(video, noise[:, :blocks]), noise[:, blocks:])

    def freeze_encoder(self) -> None:
        """Leave only LayerNorm and Linear to train: a linear probe."""
        self.encoder.requires_grad_(False)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as in masked pre-training; the patch embedding's, too, as in the image
    MAE (VideoMAE's keeps PyTorch's default)."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.flatten(1) if isinstance(module, nn.Conv3d) else module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))

"""VQ-MAE-AV: a masked autoencoder over the codes of sound and faces (Sadok, Leglaive, Séguier, "A vector quantized
masked autoencoder for audiovisual speech emotion recognition").

Two frozen tokenizers turn 2 s of a clip into codes: 100 spectra of 64 and 50 faces of 24 x 24. A token is a tube of
codes (3.2); the embedding vectors of its codes, side by side, are its channels (3.4). They begin as the tokenizers'
codebooks and are learned, as the paper says. The encoder sees the visible tokens only; attention pools make one global
token of each modality (3.5.3); a decoder predicts the codes of hidden tokens (3.5.4).

Where the paper is silent, sizes follow from its numbers of parameters: blocks of encoder and decoder are pre-norm
without a bias of query, key and value; those that attend across modalities have these biases and one norm, over the
output of their MLP; each modality has a learned embedding beside learned positions; the encoder ends with a norm, with
cross-attention fusion one for each modality.

Shape suffixes: B clips, N tokens of a modality, n slots for visible ones, m decoded ones, P codes of a token, K codes
of a codebook, E channels of a code, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - everybody calls it F

from train.models.instants import QUIET, attend_within_instants
from train.models.videomae import initialise, sinusoidal_positions, take_tokens

Modality = Literal["audio", "visual"]
AUDIO: Modality = "audio"
VISUAL: Modality = "visual"
#: All modalities, in the order of their tokens.
MODALITIES: tuple[Modality, ...] = get_args(Modality)
#: Seconds of a clip that a model sees.
WINDOW_SECONDS = 2.0
#: Self-attention and cross-attention fusion.
FUSIONS = ("saf", "caf")
#: Modality -> [B, ...] tensors; a modality that a model does not use is left out.
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CodeShape:
    """Codes of a modality in 2 s, and the tubes that tokens are. Raises ValueError where these do not fit."""

    grid: tuple[int, ...]
    """Codes along time and frequency, or time, rows and columns."""
    tube: tuple[int, ...]
    """Codes of a token along the same."""
    codes: int
    """K."""
    code_width: int
    """E."""

    def __post_init__(self) -> None:
        sizes = (*self.grid, *self.tube, self.codes, self.code_width)
        fitting = len(self.grid) == len(self.tube) and 0 < min(sizes) <= max(sizes) <= 1 << 16
        if not fitting or any(size % step for size, step in zip(self.grid, self.tube, strict=True)):
            raise ValueError(
                f"codes: found grid {self.grid} in tubes of {self.tube}, expected whole tubes, sizes from 1"
            )

    @property
    def tokens(self) -> int:
        """N."""
        return math.prod(self.grid) // math.prod(self.tube)

    @property
    def codes_per_token(self) -> int:
        """P."""
        return math.prod(self.tube)

    @property
    def token_width(self) -> int:
        """P x E."""
        return self.codes_per_token * self.code_width


AUDIO_CODES = CodeShape(grid=(100, 64), tube=(10, 4), codes=256, code_width=8)
VISUAL_CODES = CodeShape(grid=(50, 24, 24), tube=(5, 4, 4), codes=512, code_width=4)


@dataclass(frozen=True, kw_only=True)
class VqMaeConfig:
    """Shape of a model. Raises ValueError where it contradicts itself."""

    depth: int = 12
    """L, blocks of the encoder."""
    encoder_fusion: str = "saf"
    """`saf`: blocks over both modalities. `caf`: a block in which each modality queries both, then L of its own."""
    decoder_depth: int = 4
    """L'."""
    decoder_fusion: str = "saf"
    """The same of the decoder."""
    width: int = 320
    """D. Where it is not that of the tokens, these are mapped to it and back."""
    heads: int = 4
    mlp_ratio: float = 2.0
    """Hidden width of an MLP, in D."""
    audio: CodeShape | None = AUDIO_CODES
    """None for a model of faces alone."""
    visual: CodeShape | None = VISUAL_CODES
    """None for a model of sound alone."""

    def __post_init__(self) -> None:
        sizes = (self.depth, self.decoder_depth, self.width, self.heads)
        if min(sizes) < 1 or max(sizes) > 1 << 13 or self.width % self.heads or not 0 < self.mlp_ratio <= 16:
            raise ValueError(f"model: found {self}, expected sizes from 1 and a width that the heads divide")
        for fusion in (self.encoder_fusion, self.decoder_fusion):
            if fusion not in FUSIONS:
                raise ValueError(f"model: found fusion {fusion!r}, expected one of {', '.join(FUSIONS)}")
        if not self.shapes or (len(self.shapes) == 1 and "caf" in (self.encoder_fusion, self.decoder_fusion)):
            raise ValueError("model: found fewer modalities than fusion takes, expected one with saf, or both")

    @property
    def shapes(self) -> dict[Modality, CodeShape]:
        """Modality -> its codes, of those that are used, in the order of their tokens."""
        return {name: shape for name in MODALITIES if (shape := getattr(self, name)) is not None}

    @property
    def mlp(self) -> int:
        """Hidden width of an MLP."""
        return int(self.mlp_ratio * self.width)

    @property
    def strategy(self) -> str:
        """Name of what it reads: one of `train.fusion.TOKEN_STRATEGIES`."""
        return "vq-mae-" + "".join(name[0] for name in self.shapes)

    def __str__(self) -> str:
        """Such as `12 blocks, caf-saf`."""
        return f"{self.depth} blocks of width {self.width}, {self.encoder_fusion}-{self.decoder_fusion}"

    @property
    def slots(self) -> int:
        """Most tokens that are visible with coupled masks: see `train.data.token_masks`."""
        return max(shape.tokens for shape in self.shapes.values())


#: The paper's model.
MODEL_DEFAULT = "vq-mae-av"
#: Models by name. `vq-mae-av` is the paper's, with 12 blocks; `tiny` pre-trains on the demo corpus in minutes on a CPU:
#: larger tubes, so that there are 40 tokens of sound and 180 of faces, mapped to a narrow width.
MODELS: Mapping[str, VqMaeConfig] = {
    MODEL_DEFAULT: VqMaeConfig(),
    "tiny": VqMaeConfig(
        depth=3,
        decoder_depth=1,
        width=128,
        audio=CodeShape(grid=(100, 64), tube=(20, 8), codes=256, code_width=8),
        visual=CodeShape(grid=(50, 24, 24), tube=(10, 4, 4), codes=512, code_width=4),
    ),
}


class Predicted(NamedTuple):
    """What a model makes of the visible tokens."""

    logits: dict[str, Tensor]
    """Modality -> [B, m, P, K] of decoded tokens; {} without a decoder."""
    pooled: dict[str, Tensor]
    """Modality -> [B, D] global token; {} without pools."""


class Attention(nn.Module):
    """Attention of queries to keys, some of which may be absent."""

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, present: Tensor | None = None) -> Tensor:
        """[B, q, D], [B, k, D], bool [B, k] or None where all keys are present -> [B, q, D].

        Where no key is present, as of a modality that a clip lacks, all are used: their tokens are zeros.
        """
        query = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(keys).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if present is None else (present | ~present.any(1, keepdim=True))[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    """Two linear maps with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """Pre-norm self-attention and MLP (3.5.1)."""

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads, bias=False)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """[B, n, D], bool [B, n] -> [B, n, D]."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attn(normed, normed, present)
        return tokens + self.mlp(self.norm2(tokens))


class CrossBlock(nn.Module):
    """Attention of one modality to others, and MLP; its output is normed before it is added."""

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.heads, bias=True)
        self.mlp = MLP(config.width, config.mlp)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, queries: Tensor, keys: Tensor, present: Tensor | None = None) -> Tensor:
        """[B, q, D], [B, k, D], bool [B, k] -> [B, q, D]."""
        mixed = queries + self.attn(queries, keys, present)
        return mixed + self.norm(self.mlp(mixed))


class AttentionPool(nn.Module):
    """A learned query attends to the tokens of a modality (equations 1 and 2)."""

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, config.width))
        self.block = CrossBlock(config)
        self.apply(initialise)
        truncated_normal(self.query)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """[B, N, D], bool [B, N] -> [B, D]."""
        return self.block(self.query.expand(len(tokens), -1, -1).to(tokens.dtype), tokens, present)[:, 0]


class Fused(nn.Module):
    """Blocks over the tokens of all modalities: self-attention or cross-attention fusion (3.5.2)."""

    def __init__(self, config: VqMaeConfig, depth: int, fusion: str) -> None:
        super().__init__()
        names = list(config.shapes) if fusion == "caf" else ["fused"]
        self.cross = nn.ModuleDict({name: CrossBlock(config) for name in names if fusion == "caf"})
        self.blocks = nn.ModuleDict({name: nn.ModuleList(Block(config) for _ in range(depth)) for name in names})

    def forward(self, tokens: Tensors, present: Tensors | None = None, slots: int | None = None) -> dict[str, Tensor]:
        """Modality -> [B, N, D], and bool [B, N] or None where all are present -> the same, of the present ones.

        What the others become means nothing. `slots` is as of `Encoder.forward`.
        """
        names, lengths = list(tokens), [each.shape[1] for each in tokens.values()]
        joined = torch.cat([*tokens.values()], dim=1)
        seen = None if present is None else torch.cat([present[name] for name in names], dim=1)
        if self.cross:
            for name in names:
                own = None if present is None else present[name]
                mixed = self.cross[name](tokens[name], joined, seen)
                for block in self.blocks[name]:
                    mixed = block(mixed, own)
                tokens = {**tokens, name: mixed}
        else:
            taken, places = joined, None
            if seen is not None and slots is not None and slots < joined.shape[1]:
                # Visible tokens first, in their order; a clip with fewer than the others has absent ones behind them.
                order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, :slots]
                taken, places = take_tokens(joined, order), seen.cumsum(1).sub(1).clamp(0, slots - 1)
                kept = seen.gather(1, order)
            else:
                kept = seen
            for block in self.blocks["fused"]:
                taken = block(taken, kept)
            whole = taken if places is None else take_tokens(taken, places)
            tokens = dict(zip(names, whole.split(lengths, dim=1), strict=True))
        return dict(tokens)


class Encoder(nn.Module):
    """Codes -> tokens, of which only the visible ones are seen."""

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        shapes, width = config.shapes, config.width
        self.config = config
        self.codebooks = nn.ModuleDict(
            {name: nn.Embedding(shape.codes, shape.code_width) for name, shape in shapes.items()}
        )
        self.project = nn.ModuleDict(
            {name: nn.Linear(s.token_width, width) for name, s in shapes.items() if s.token_width != width}
        )
        self.places = Places(config)
        self.fused = Fused(config, config.depth, config.encoder_fusion)
        names = list(shapes) if config.encoder_fusion == "caf" else ["fused"]
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in names})
        self.apply(initialise)

    def load_codebooks(self, codebooks: Tensors) -> None:
        """Begin with the tokenizers' codebooks, float32 [K, E] of each modality. Raises ValueError for other shapes."""
        for name, embedding in self.codebooks.items():
            found = tuple(codebooks[name].shape)
            if found != tuple(embedding.weight.shape):
                raise ValueError(f"{name} codebook: found {found}, expected {tuple(embedding.weight.shape)}")
            with torch.no_grad():
                embedding.weight.copy_(codebooks[name])

    def forward(self, codes: Tensors, visible: Tensors | None = None, slots: int | None = None) -> dict[str, Tensor]:
        """Modality -> codes [B, *grid] and bool [B, N] -> tokens [B, N, D], zeros where hidden.

        With `slots`, at least as many as any clip has visible tokens, self-attention fusion computes so many of each
        clip, whatever is visible: shapes are static. Hidden tokens never influence others.
        """
        return self.encode(self.embed(codes), visible, slots)

    def embed(self, codes: Tensors) -> dict[str, Tensor]:
        """Modality -> codes [B, *grid] -> tokens [B, N, D] with their places."""
        tokens: dict[str, Tensor] = {}
        for name, shape in self.config.shapes.items():
            token = self.codebooks[name](split_tubes(codes[name].int(), shape.tube)).flatten(2)
            tokens[name] = self.project[name](token) if name in self.project else token
        return self.places(tokens)

    def encode(self, tokens: Tensors, visible: Tensors | None = None, slots: int | None = None) -> dict[str, Tensor]:
        """As `forward`, of what `embed` gives; of some modalities only, as if the others were hidden."""
        fused = self.fused(tokens, visible, slots)
        normed = {name: self.norms[name if name in self.norms else "fused"](each) for name, each in fused.items()}
        if visible is None:
            return normed
        return {name: each.masked_fill(~visible[name][..., None], 0) for name, each in normed.items()}


class Decoder(nn.Module):
    """Visible tokens and mask tokens -> logits of codes."""

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        shapes, width = config.shapes, config.width
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.places = Places(config)
        self.fused = Fused(config, config.decoder_depth, config.decoder_fusion)
        self.project = nn.ModuleDict(
            {name: nn.Linear(width, s.token_width) for name, s in shapes.items() if s.token_width != width}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(s.code_width, s.codes) for name, s in shapes.items()})
        self.apply(initialise)
        truncated_normal(self.mask_token)

    @torch.no_grad()
    def load_codebooks(self, codebooks: Tensors) -> None:
        """Begin with the tokenizers' codebooks, float32 [K, E] of each modality: logits are distances to their vectors.

        Each is -|x - c|^2 / (2 s), up to a constant, with half of the vectors' variance in each channel as s; what
        predicts x begins near their mean.
        """
        for name, head in self.heads.items():
            vectors = codebooks[name] - codebooks[name].mean(0)
            scaled = vectors / (vectors.var(0) / 2)
            head.weight.copy_(scaled)
            head.bias.copy_(-(scaled * vectors).sum(1) / 2)
        for layer in self.project.values():
            layer.weight.mul_(0.05)

    def forward(self, tokens: Tensors, visible: Tensors, decoded: Tensors) -> dict[str, Tensor]:
        """Modality -> [B, N, D], bool [B, N], int64 [B, m] tokens to decode -> logits [B, m, P, K]."""
        complete = {
            name: torch.where(visible[name][..., None], each, self.mask_token.to(each.dtype))
            for name, each in tokens.items()
        }
        fused, logits = self.fused(self.places(complete)), {}
        for name, shape in self.config.shapes.items():
            token = take_tokens(fused[name], decoded[name])
            token = self.project[name](token) if name in self.project else token
            logits[name] = self.heads[name](token.unflatten(-1, (-1, shape.code_width)))
        return logits


class Places(nn.Module):
    """Adds to each token learned embeddings of its position and its modality.

    Those of positions begin with sinusoids, so that tokens of one time, or of one place, are alike from the start.
    """

    def __init__(self, config: VqMaeConfig) -> None:
        super().__init__()
        shapes, width = config.shapes, config.width
        self.positions = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(1, shape.tokens, width)) for name, shape in shapes.items()}
        )
        self.modalities = nn.ParameterDict({name: nn.Parameter(torch.empty(1, 1, width)) for name in shapes})
        truncated_normal(*self.positions.values(), *self.modalities.values())
        with torch.no_grad():
            for name, shape in shapes.items():
                self.positions[name] += axis_positions(shape, width)

    def forward(self, tokens: Tensors) -> dict[str, Tensor]:
        """Modality -> [B, N, D] -> the same."""
        return {
            name: each + (self.positions[name] + self.modalities[name]).to(each.dtype) for name, each in tokens.items()
        }


class VqMae(nn.Module):
    """The model of a pre-training: encoder, decoder for the generative loss, pools for the contrastive one."""

    def __init__(
        self, config: VqMaeConfig, *, generative: bool = True, contrastive: bool = True, separate: bool = False
    ) -> None:
        """With `separate`, a global token is of all tokens of its modality, encoded without the other one."""
        super().__init__()
        self.config = config
        self.separate = separate
        self.encoder = Encoder(config)
        self.pools = nn.ModuleDict({name: AttentionPool(config) for name in config.shapes if contrastive})
        self.decoder = Decoder(config) if generative else None

    @torch.no_grad()
    def begin_within_instants(self) -> None:
        """Change random weights, so that the decoder attends within the instant first: `train.models.instants`."""
        if self.decoder is None:
            return
        shapes, places = self.config.shapes, self.decoder.places
        instants = torch.cat([torch.arange(s.tokens) * s.grid[0] // (s.tokens * s.tube[0]) for s in shapes.values()])
        positions = torch.cat([(places.positions[name] + places.modalities[name])[0] for name in shapes])
        for norm in self.encoder.norms.values():
            norm.weight *= QUIET
        for attention in self.decoder.fused.modules():
            if isinstance(attention, Attention):
                key, _ = attention.key_value.weight.chunk(2)
                attend_within_instants(attention.query.weight, key, attention.heads, positions, instants)

    def forward(self, codes: Tensors, visible: Tensors, decoded: Tensors, slots: int | None = None) -> Predicted:
        """Arguments as of `Encoder.forward` and `Decoder.forward`."""
        embedded = self.encoder.embed(codes)
        tokens = self.encoder.encode(embedded, visible, slots)
        logits = self.decoder(tokens, visible, decoded) if self.decoder is not None else {}
        if self.separate:
            alone = {name: self.encoder.encode({name: embedded[name]})[name] for name in self.pools}
            return Predicted(logits, {name: pool(alone[name]) for name, pool in self.pools.items()})
        return Predicted(logits, {name: pool(tokens[name], visible[name]) for name, pool in self.pools.items()})


def axis_positions(shape: CodeShape, width: int) -> Tensor:
    """[1, N, D]: sinusoids of a token's place on each axis, side by side."""
    counts = [size // step for size, step in zip(shape.grid, shape.tube, strict=True)]
    channels = width // len(counts) // 2 * 2
    table = torch.zeros(*counts, width)
    for axis, count in enumerate(counts):
        sinusoids = sinusoidal_positions(count, channels)[0]  # [count, channels]
        view = [count if each == axis else 1 for each in range(len(counts))]
        table[..., axis * channels : (axis + 1) * channels] = sinusoids.view(*view, channels)
    return table.flatten(0, -2)[None]


def split_tubes(codes: Tensor, tube: Sequence[int]) -> Tensor:
    """Codes [B, *grid] -> [B, N, P]: tokens in the order of the grid, each with its codes in the same order."""
    sizes = [part for size, step in zip(codes.shape[1:], tube, strict=True) for part in (size // step, step)]
    apart = codes.reshape(len(codes), *sizes)  # [B, tubes, codes of one, ...] along each axis
    outer, inner = range(1, apart.ndim, 2), range(2, apart.ndim, 2)
    return apart.permute(0, *outer, *inner).flatten(1, len(tube)).flatten(2)


def join_tubes(tokens: Tensor, shape: CodeShape) -> Tensor:
    """[B, N, P] -> codes [B, *grid]: what `split_tubes` split."""
    counts = [size // step for size, step in zip(shape.grid, shape.tube, strict=True)]
    apart = tokens.reshape(len(tokens), *counts, *shape.tube)
    axes = len(counts)
    order = [place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)]
    return apart.permute(0, *order).reshape(len(tokens), *shape.grid)


def truncated_normal(*parameters: Tensor) -> None:
    """Initial values of embeddings, positions and learned tokens."""
    for parameter in parameters:
        nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)

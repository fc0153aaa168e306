"""Classifiers on VQ-MAE-AV's encoder: three heads (paper 3.7, Table 6).

Shape suffixes as in `train.models.vq_mae_av`; C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from train.models.videomae import initialise
from train.models.vq_mae_av import Attention, AttentionPool, Encoder, Tensors, VqMaeConfig, truncated_normal

#: Hidden width of the MLPs of Query2Emo: that of a transformer in PyTorch.
_QUERY2EMO_MLP = 2048


class MeanHead(nn.Module):
    """Mean of the tokens of each modality, side by side, and a linear layer."""

    def __init__(self, config: VqMaeConfig, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(len(config.shapes) * config.width, classes)

    def forward(self, tokens: Tensors, visible: Tensors | None = None) -> Tensor:
        """Modality -> [B, N, D], zeros where hidden, bool [B, N] -> logits [B, C]; the mean of no tokens is 0."""
        if visible is None:
            return self.linear(torch.cat([each.mean(1) for each in tokens.values()], dim=-1))
        counts = {name: visible[name].sum(1, keepdim=True).clamp(min=1) for name in tokens}
        return self.linear(torch.cat([each.sum(1) / counts[name] for name, each in tokens.items()], dim=-1))


class AttentionHead(nn.Module):
    """The global tokens of both modalities, side by side, and a linear layer."""

    def __init__(self, config: VqMaeConfig, classes: int) -> None:
        super().__init__()
        self.pools = nn.ModuleDict({name: AttentionPool(config) for name in config.shapes})
        self.linear = nn.Linear(len(config.shapes) * config.width, classes)

    def forward(self, tokens: Tensors, visible: Tensors | None = None) -> Tensor:
        """As of `MeanHead`."""
        present = {name: None if visible is None else visible[name] for name in tokens}
        return self.linear(torch.cat([pool(tokens[name], present[name]) for name, pool in self.pools.items()], dim=-1))


class Query2EmoHead(nn.Module):
    """An encoder layer over all tokens, a decoder layer whose queries are the classes, and a linear layer over these
    (3.7, after Query2Label). Layers are post-norm, as those of the original transformer."""

    def __init__(self, config: VqMaeConfig, classes: int) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.labels = nn.Parameter(torch.empty(1, classes, width))
        self.encode, self.decode = (Attention(width, heads, bias=True) for _ in range(2))
        self.queries = Attention(width, heads, bias=True)
        self.encode_mlp, self.decode_mlp = (_relu_mlp(width) for _ in range(2))
        self.encode_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.decode_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.linear = nn.Linear(classes * width, classes)
        self.apply(initialise)
        truncated_normal(self.labels)

    def forward(self, tokens: Tensors, visible: Tensors | None = None) -> Tensor:
        """As of `MeanHead`."""
        memory = torch.cat([*tokens.values()], dim=1)
        present = None if visible is None else torch.cat([visible[name] for name in tokens], dim=1)
        first, second, last = self.encode_norms
        memory = first(memory + self.encode(memory, memory, present))
        memory = last(second(memory + self.encode_mlp(memory)))
        first, second, third, last = self.decode_norms
        labels = self.labels.expand(len(memory), -1, -1).to(memory.dtype)
        labels = first(labels + self.queries(labels, labels))
        labels = second(labels + self.decode(labels, memory, present))
        return self.linear(last(third(labels + self.decode_mlp(labels))).flatten(1))


#: How one vector is made of the encoder's tokens.
HEADS: Mapping[str, type[MeanHead] | type[AttentionHead] | type[Query2EmoHead]] = {
    "mean": MeanHead,
    "attention": AttentionHead,
    "query2emo": Query2EmoHead,
}


class EmotionClassifier(nn.Module):
    """The model of a fine-tuning: encoder and one of `HEADS`."""

    def __init__(self, config: VqMaeConfig, classes: int, head: str) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.head_name = head
        self.head = HEADS[head](config, classes)

    def forward(self, inputs: tuple[Tensors, Tensors | None]) -> Tensor:
        """Modality -> codes [B, *grid], and bool [B, N] tokens that a clip has, None for all -> logits [B, C].

        They are float32 under autocast too.
        """
        codes, visible = inputs
        return self.head(self.encoder(codes, visible), visible).float()


def _relu_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, _QUERY2EMO_MLP), nn.ReLU(), nn.Linear(_QUERY2EMO_MLP, width))

"""Attention that begins within an instant: the start of a decoder that has to relate two modalities.

What a hidden patch of sound can be predicted from is in the faces of the same instant. With random weights a decoder
attends to all tokens alike, and each of them says little; which to attend to is learned only once what they say is
understood, and the other way round. Both start at nothing, so that it takes very long: on the demo corpus nothing was
related after thousands of steps, and with attention that was held to the instant after 250. Therefore queries and
keys can begin as codes of the instant, read from the position. They are learned like all others; neither the model nor
what it computes from given weights is changed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: How much higher the logits of tokens of the own instant are, on average.
_GAP = 6.0
#: Ridge of the regression from positions to instants, as a variance: with more of it a token's instant is read less
#: precisely, and what the token shows disturbs less.
_RIDGE = 0.1
#: What remains of the other, random channels of queries and keys.
_REST = 0.1
#: Gain of the visible tokens that a decoder receives where it begins within instants: positions should be larger.
QUIET = 0.25


@torch.no_grad()
def attend_within_instants(query: Tensor, key: Tensor, heads: int, positions: Tensor, instants: Tensor) -> None:
    """Change weights [D, D] of an attention's queries and keys, so that each head attends to the token's own instant.

    Where all tokens have one instant they stay as they are.

    Args:
        query: rows are channels, D / heads of each head.
        key: likewise.
        heads: number of heads.
        positions: [N, D] that are added to tokens.
        instants: int64 [N] of each token, from 0.
    """
    if len(instants.unique()) < 2:  # as of `rfas`, where it depends on the clip: there are no others to prefer it to
        return
    width = positions.shape[1]
    channels = width // heads
    wanted = functional.one_hot(instants).to(positions)
    same = instants[:, None] == instants
    wanted = wanted - wanted.mean(dim=0)
    ridge = _RIDGE * len(positions) * torch.eye(width)
    left, scales, _ = torch.linalg.svd(
        torch.linalg.solve(positions.T @ positions + ridge, positions.T @ wanted), full_matrices=False
    )
    code = (left * scales)[:, :channels]  # [D, instants, or as many as a head has room for]
    read = functional.layer_norm(positions, (width,)) @ code
    logits = read @ read.T / channels**0.5
    code *= (_GAP / (logits[same].mean() - logits[~same].mean())).sqrt()
    for weights in (query, key):
        weights *= _REST
        for head in weights.split(channels):
            head[: code.shape[1]] = code.T

"""Losses of VQ-MAE-AV: cross-entropy of hidden codes and a contrastive loss of its pre-training (paper 3.6), and the
asymmetric loss of its classifiers (3.7).

Shape suffixes as in `train.models.vq_mae_av`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - everybody calls it F

from train.models.videomae import take_tokens
from train.models.vq_mae_av import split_tubes


@dataclass(frozen=True, kw_only=True)
class HiddenCodes:
    """Codes of decoded tokens of a modality, and which of them were hidden and are to be predicted."""

    codes: Tensor
    """int64 [B, m, P]."""
    hidden: Tensor
    """bool [B, m]."""

    @classmethod
    def of(cls, codes: Tensor, visible: Tensor, decoded: Tensor, tube: Sequence[int]) -> HiddenCodes:
        """Codes [B, *grid], bool [B, N], int64 [B, m]."""
        tokens = split_tubes(codes.long(), tube)
        return cls(codes=take_tokens(tokens, decoded), hidden=~visible.gather(1, decoded))

    @property
    def counts(self) -> Tensor:
        """int64 [B] codes that are to be predicted."""
        return self.hidden.sum(1) * self.codes.shape[2]

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """[B, m, P, K] -> mean over the hidden codes of each clip [B], float32; 0 where none is hidden (equation 3)."""
        losses = F.cross_entropy(logits.float().flatten(0, 2), self.codes.flatten(), reduction="none")
        return (losses.view_as(self.codes).sum(2) * self.hidden).sum(1) / self.counts.clamp(min=1)

    def correct(self, predicted: Tensor) -> Tensor:
        """Predicted codes [B, m, P], or those that broadcast to it -> how many hidden ones are right, int64 [B]."""
        return ((self.codes == predicted).sum(2) * self.hidden).sum(1)


def nt_xent(
    own: tuple[Tensor, Tensor], all_clips: tuple[Tensor, Tensor], first: int, temperature: float = 0.5
) -> Tensor:
    """Contrastive loss of each of some clips [B] among all clips of a step (after equation 4).

    NT-Xent of SimCLR: both global tokens of a clip are a positive pair, those of other clips, of either modality,
    negatives; similarity is the cosine. The mean over clips is the mean over both directions. The paper's equation has
    pairs of sound and face only, and their dot product; it gives no value of its temperature.

    Args:
        own: unit vectors of sound and faces, [B, D] each.
        all_clips: those of all clips, [A, D] each; rows of zeros are no clips.
        first: place among all of the first of the own clips, which follow each other.
        temperature: what similarities are divided by.
    """
    vectors, others = torch.cat(own), torch.cat(all_clips)
    count, total = len(own[0]), len(all_clips[0])
    place = torch.arange(count, device=vectors.device) + first
    itself, partner = torch.cat([place, place + total]), torch.cat([place + total, place])
    similarity = vectors @ others.T / temperature
    excluded = (others == 0).all(1) | F.one_hot(itself, 2 * total).bool()
    losses = F.cross_entropy(similarity.masked_fill(excluded, -math.inf), partner, reduction="none")
    return losses.unflatten(0, (2, count)).mean(0)


def asymmetric_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, gamma: float = 4.0) -> Tensor:
    """Sum over clips of the asymmetric loss for one label a clip, [] (Ridnik et al. 2021, gamma+ = 0, gamma- = 4).

    Cross-entropy in which the term of a wrong class, which label smoothing gives a share, counts by the class's
    probability to the power of gamma-: without label smoothing it is plain cross-entropy.

    Args:
        logits: [B, C] float32.
        targets: [B, C] shares of the classes.
        label_smoothing: share of the targets that is spread evenly over all classes.
        gamma: gamma-.
    """
    log_probabilities = logits.log_softmax(-1)
    wrong = 1 - targets
    weights = (1 - wrong * (1 - log_probabilities.exp())).clamp(min=1e-12) ** (gamma * wrong)
    smoothed = targets * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return -(smoothed * weights * log_probabilities).sum()

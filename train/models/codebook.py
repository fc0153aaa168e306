"""A codebook that follows the latents of its encoder: vector quantisation with moving averages and restarts.

van den Oord et al. 2017, appendix A.1: each vector is a moving average of the latents that are nearest to it. A vector
that few latents are nearest to starts again at a latent of the step (Dhariwal et al. 2020, section 3.1), as every
vector does in the first step. Sums and draws are those of all processes together, however many there are.

Shape suffixes: n latents, K codes, E numbers of a vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

#: Least use that a sum is divided by.
_LEAST = 1e-6


class Codebook(nn.Module):
    """K vectors, by the nearest of which each latent is replaced. They are buffers, which `update` moves."""

    vectors: Tensor
    """float32 [K, E]."""
    sums: Tensor
    """float32 [K, E] moving average of the sum of each code's latents in a step."""
    counts: Tensor
    """float32 [K] moving average of the number of each code's latents in a step."""
    steps: Tensor
    """int64 [] updates so far; random numbers of a step are drawn from it."""

    def __init__(self, codes: int, width: int, *, decay: float = 0.99, dead_share: float = 0.1, seed: int = 0) -> None:
        """Make K = `codes` random vectors of E = `width` numbers.

        `decay` is the share of a moving average that a step keeps. A code that is used less than `dead_share` of the
        mean use, which every code is at first, starts again, at a latent that is drawn from `seed` and the step.
        """
        super().__init__()
        self.decay, self.dead_share, self.seed = decay, dead_share, seed
        self.register_buffer("vectors", torch.randn(codes, width))
        self.register_buffer("sums", torch.zeros(codes, width))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, codes: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., E]."""
        return functional.embedding(codes, self.vectors)

    def nearest(self, latents: Tensor) -> Tensor:
        """[n, E] -> int64 [n] code of the nearest vector, the first of equally near ones."""
        squares = self.vectors.square().sum(dim=1)
        return torch.addmm(squares, latents, self.vectors.T, alpha=-2).argmin(dim=1)

    @torch.no_grad()
    def restart(self, latents: Tensor) -> None:
        """Let codes that are not used start again at some of a step's latents [n, E], before these get codes."""
        rank, processes = _process()
        sizes = torch.zeros(processes, dtype=torch.int64, device=latents.device)
        sizes[rank] = len(latents)
        total = int(sum_over_processes(sizes).sum())
        least = self.dead_share * total / len(self.vectors)
        dead = self.counts < least
        if not dead.any():
            return
        generator = np.random.default_rng((self.seed, int(self.steps)))
        chosen = generator.choice(total, len(self.vectors), replace=total < len(self.vectors))
        drawn = torch.from_numpy(chosen).to(latents.device)
        drawn -= sizes[:rank].sum()  # counted over the latents of all processes, in their order
        own = (drawn >= 0) & (drawn < len(latents))
        starts = torch.zeros_like(self.vectors)
        starts[own] = latents[drawn[own]]
        starts = sum_over_processes(starts)[dead]
        self.vectors[dead] = starts
        self.counts[dead] = least  # so that one that is not used at once starts again in the next step
        self.sums[dead] = starts * least

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Move the vectors towards the latents [n, E] of a step, which got these codes [n]."""
        width = latents.shape[1]
        rows = torch.cat([latents, latents.new_ones(len(latents), 1)], dim=1).double()
        found = rows.new_zeros(len(self.vectors), width + 1).index_add_(0, codes, rows)
        found = sum_over_processes(found).float()
        self.sums.lerp_(found[:, :width], 1 - self.decay)
        self.counts.lerp_(found[:, width], 1 - self.decay)
        self.vectors.copy_(self.sums / self.counts.clamp(min=_LEAST)[:, None])
        self.steps += 1


def perplexity(counts: Tensor) -> Tensor:
    """[K] how often each code was used -> how many codes, equally used, would be as diverse: exp(entropy), []."""
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum over the processes that train together, in place, the same in each; without a gradient."""
    if _process()[1] > 1:
        distributed.all_reduce(tensor)
    return tensor


def _process() -> tuple[int, int]:
    """Rank of this process, and their number."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()

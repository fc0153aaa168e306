"""VQ-MAE-AV's tokenizers: a VQ-VAE for one power spectrum, another for one face (paper 3.1 and 4.1.2).

Each encodes one frame without its neighbours: a spectrum of 513 bins becomes 64 codes, a face of 96x96 pixels 24x24.
Layers are those of the authors' code, which the paper's figure does not show in full.

Shape suffixes: n frames, P places of a frame, K codes, E numbers of a code's vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, distributed, nn

from train.models.codebook import Codebook, sum_over_processes

#: Bins of a power spectrum, and codes of one.
BINS, AUDIO_PLACES = 513, 64
#: Pixels a side of a face, and codes a side.
SIDE_PX, VISUAL_PLACES = 96, 24
#: Added to powers before they are compared, as in the authors' code.
POWER_EPS = 1e-10
#: Of the values of aligned faces in 0..1, about.
_FACE_VARIANCE = 0.06
#: Most that a decoder's log power can be, so that no power is infinite.
_MAX_LOG_POWER = 80.0


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerConfig:
    """Shape of an audio tokenizer. Raises ValueError for sizes that make none."""

    hidden: int = 32
    """Channels."""
    residual_layers: int = 1
    """1 as in VQ-MAE-AV; the released model of VQ-MAE-S has 2."""
    codes: int = 256
    """K; the codes of a spectrum are stored in 8 bits."""
    width: int = 8
    """E."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.residual_layers, self.width) < 1 or self.hidden % 2 or not 2 <= self.codes <= 256:
            raise ValueError(f"audio tokenizer: found {self}, expected sizes from 1, even hidden, 2 to 256 codes")


@dataclass(frozen=True, kw_only=True)
class VisualTokenizerConfig:
    """Shape of a visual tokenizer. Raises ValueError for sizes that make none."""

    hidden: int = 128
    """Channels."""
    residual_hidden: int = 64
    """Channels within a residual layer."""
    residual_layers: int = 2
    codes: int = 512
    """K."""
    width: int = 4
    """E."""

    def __post_init__(self) -> None:
        sizes = (self.hidden, self.residual_hidden, self.residual_layers, self.width)
        if min(sizes) < 1 or self.hidden % 2 or not 2 <= self.codes <= 65536:
            raise ValueError(f"visual tokenizer: found {self}, expected sizes from 1, even hidden, 2 to 65536 codes")


class Tokenized(NamedTuple):
    """Frames that went through a tokenizer."""

    reconstruction: Tensor
    """As the input: [n, 513] or [n, 3, 96, 96]. The gradient passes the codes as if there were none."""
    commitment: Tensor
    """[n] mean squared distance between latents and the vectors of their codes."""
    codes: Tensor
    """int64 [n, 64] or [n, 24, 24]."""


class Tokenizer(nn.Module, ABC):
    """Frames -> codes -> frames."""

    encoder: nn.Sequential
    """Frames -> latents [n, E, ...]."""
    decoder: nn.Sequential
    """Vectors [n, E, ...] -> frames, before `_output`."""
    quantizer: Codebook
    fixed: Tensor
    """int64 [] 1 once `fix` was called."""

    def __init__(self, encoder: nn.Sequential, quantizer: Codebook, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.register_buffer("fixed", torch.zeros((), dtype=torch.int64))

    @property
    def codebook(self) -> Tensor:
        """float32 [K, E]."""
        return self.quantizer.vectors

    def encode(self, frames: Tensor) -> Tensor:
        """Frames -> int64 codes [n, 64] or [n, 24, 24]. Calibrated models are used in evaluation mode."""
        latents = self._latents(frames)
        return self.quantizer.nearest(latents.flatten(0, -2)).view(latents.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> frames."""
        return self._output(self.decoder(self.quantizer(codes).movedim(-1, 1)))

    def forward(self, frames: Tensor) -> Tokenized:
        """Encode and decode frames; in training mode the codebook follows them.

        A training step in which no process has any frame changes nothing, and gives them back.
        """
        if self.training and not sum_over_processes(torch.tensor(len(frames), device=frames.device)):
            return Tokenized(frames, frames.flatten(1).sum(dim=1), torch.empty(0, dtype=torch.int64))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.fixed):
            latents = self._latents(frames)
        flat = latents.detach().flatten(0, -2)
        if self.training:
            self.quantizer.restart(flat)
        codes = self.quantizer.nearest(flat)
        vectors = self.quantizer(codes).view_as(latents)
        if self.training:
            self.quantizer.update(flat, codes)
        commitment = (latents - vectors).square().flatten(1).mean(dim=1)
        passed = latents + (vectors - latents).detach()
        reconstruction = self._output(self.decoder(passed.movedim(-1, 1)))
        return Tokenized(reconstruction, commitment, codes.view(latents.shape[:-1]))

    def train(self, mode: bool = True) -> Self:
        """As of every module; norms of a fixed encoder stay as they are."""
        super().train(mode)
        if self.fixed:
            for norm in norms_of(self):
                norm.eval()
        return self

    def fix(self, frames: Tensor) -> None:
        """Calibrate norms on frames [n, ...], and train codebook and decoder only from now on.

        Every code starts again in the next step: those that followed an encoder in training mode, whose latents change
        with each batch's statistics, lie between latents that they were to tell apart. All processes call it together.
        """
        calibrate(self, frames)
        self.fixed.fill_(1)
        self.quantizer.counts.zero_()
        self.train()

    def _latents(self, frames: Tensor) -> Tensor:
        """[n, ..., E]."""
        latents: Tensor = self.encoder(self._input(frames))
        return latents.movedim(1, -1).contiguous()

    @abstractmethod
    def distances(self, frames: Tensor, reconstruction: Tensor) -> Tensor:
        """[n] how far each reconstruction is from its frame."""

    def losses(self, frames: Tensor, reconstruction: Tensor) -> Tensor:
        """[n] what training minimises beside the commitment: the distances, on the scale of the latents."""
        return self.distances(frames, reconstruction)

    @abstractmethod
    def _input(self, frames: Tensor) -> Tensor:
        """Frames as the first layer takes them."""

    @abstractmethod
    def _output(self, decoded: Tensor) -> Tensor:
        """Frames from the last layer."""


class AudioTokenizer(Tokenizer):
    """Power spectra float32 [n, 513], `train.data.spectrograms.power_spectra` -> codes [n, 64] -> power spectra."""

    def __init__(self, config: AudioTokenizerConfig | None = None, **following: Any) -> None:
        """A tokenizer with random weights; `following` are options of `Codebook`."""
        self.config = config = config or AudioTokenizerConfig()
        hidden, half = config.hidden, config.hidden // 2
        encoder = nn.Sequential(
            nn.Conv1d(1, half, 4, stride=2, padding=1),
            BatchNorm(half),
            nn.Tanh(),
            nn.Conv1d(half, hidden, 4, stride=2, padding=1),
            BatchNorm(hidden),
            nn.Tanh(),
            nn.Conv1d(hidden, hidden, 3, stride=2, padding=1),
            BatchNorm(hidden),
            *(_Residual(nn.Conv1d, nn.Tanh, hidden, hidden) for _ in range(config.residual_layers)),
            nn.Tanh(),
            nn.Conv1d(hidden, config.width, 1),
        )
        decoder = nn.Sequential(
            nn.Conv1d(config.width, hidden, 3, padding=1),
            *(_Residual(nn.Conv1d, nn.Tanh, hidden, hidden) for _ in range(config.residual_layers)),
            nn.Tanh(),
            nn.ConvTranspose1d(hidden, hidden, 4, stride=2, padding=1),
            BatchNorm(hidden),
            nn.Tanh(),
            nn.ConvTranspose1d(hidden, half, 4, stride=2, padding=1),
            BatchNorm(half),
            nn.Tanh(),
            nn.ConvTranspose1d(half, 1, 3, stride=2),
        )
        super().__init__(encoder, Codebook(config.codes, config.width, **following), decoder)
        self._show_quiet_bins()

    @torch.no_grad()
    def _show_quiet_bins(self) -> None:
        """Begin with filters that sum to 0, and with gains of the first two norms from 1 to 100 and from 1 to 10.

        Powers span ten decades, of which a norm with gain 1 shows the loudest. Where filters do not sum to 0, higher
        gains show where the mean is, which loud bins decide.
        """
        convolution, first, _, _, second, *_ = self.encoder
        convolution.weight -= convolution.weight.mean(dim=-1, keepdim=True)
        first.weight.copy_(torch.logspace(0, 2, first.num_features))
        second.weight.copy_(torch.logspace(0, 1, second.num_features))

    def distances(self, frames: Tensor, reconstruction: Tensor) -> Tensor:
        """Itakura-Saito divergence, mean over bins (paper 3.1)."""
        return itakura_saito(frames, reconstruction)

    def _input(self, frames: Tensor) -> Tensor:
        return frames[:, None]

    def _output(self, decoded: Tensor) -> Tensor:
        return decoded[:, 0].clamp(max=_MAX_LOG_POWER).exp()


class VisualTokenizer(Tokenizer):
    """RGB faces in 0..1, float32 [n, 3, 96, 96] -> codes [n, 24, 24] -> faces."""

    def __init__(self, config: VisualTokenizerConfig | None = None, **following: Any) -> None:
        """A tokenizer with random weights; `following` are options of `Codebook`."""
        self.config = config = config or VisualTokenizerConfig()
        hidden, half, within = config.hidden, config.hidden // 2, config.residual_hidden
        encoder = nn.Sequential(
            nn.Conv2d(3, half, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, hidden, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            *(_Residual(nn.Conv2d, nn.ReLU, hidden, within) for _ in range(config.residual_layers)),
            nn.ReLU(),
            nn.Conv2d(hidden, config.width, 1),
        )
        decoder = nn.Sequential(
            nn.Conv2d(config.width, hidden, 3, padding=1),
            *(_Residual(nn.Conv2d, nn.ReLU, hidden, within) for _ in range(config.residual_layers)),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, half, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, 3, 4, stride=2, padding=1),
        )
        super().__init__(encoder, Codebook(config.codes, config.width, **following), decoder)

    def distances(self, frames: Tensor, reconstruction: Tensor) -> Tensor:
        """Squared error, mean over values in 0..1."""
        return (reconstruction - frames).square().flatten(1).mean(dim=1)

    def losses(self, frames: Tensor, reconstruction: Tensor) -> Tensor:
        """The same by the variance of faces, as in van den Oord's code: else the commitment outweighs it."""
        return self.distances(frames, reconstruction) / _FACE_VARIANCE

    def _input(self, frames: Tensor) -> Tensor:
        return frames - 0.5

    def _output(self, decoded: Tensor) -> Tensor:
        return decoded + 0.5


class Tokenizers(nn.Module):
    """Both tokenizers, trained at the same time; neither depends on the other."""

    def __init__(self, audio: AudioTokenizer, visual: VisualTokenizer) -> None:
        super().__init__()
        self.audio = audio
        self.visual = visual

    def forward(self, power: Tensor, faces: Tensor) -> tuple[Tokenized, Tokenized]:
        """Power spectra [n, 513] and faces [m, 3, 96, 96], each encoded and decoded."""
        return self.audio(power), self.visual(faces)


class _Residual(nn.Module):
    """x + 1x1(f(3x3(f(x)))), convolutions without bias."""

    def __init__(
        self, conv: type[nn.Conv1d | nn.Conv2d], activation: type[nn.Module], channels: int, within: int
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activation(),
            conv(channels, within, 3, padding=1, bias=False),
            activation(),
            conv(within, channels, 1, bias=False),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """[n, C, ...] -> the same shape."""
        change: Tensor = self.layers(frames)
        return frames + change


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose batch is that of all processes, on a CPU too, where torch's SyncBatchNorm cannot."""

    def forward(self, frames: Tensor) -> Tensor:
        """[n, C, P] -> the same shape."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(frames)
        from torch.distributed.nn.functional import all_reduce

        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        numbers = frames.new_full((1,), frames.shape[0] * frames.shape[2])
        sums: Tensor = all_reduce(torch.cat([frames.sum(dim=(0, 2)), numbers]))  # type: ignore[no-untyped-call]
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        # A second sum, because the variance as a difference of two large numbers would be inexact.
        squares: Tensor = all_reduce((frames - mean[:, None]).square().sum(dim=(0, 2)))  # type: ignore[no-untyped-call]
        variance = squares / count
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (frames - mean[:, None]) * scale[:, None] + self.bias[:, None]


def norms_of(model: nn.Module) -> list[BatchNorm]:
    """Batch norms of a model, in order."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


@torch.no_grad()
def calibrate(model: Tokenizer, frames: Tensor) -> None:
    """Give batch norms the statistics of these frames as one batch, and put the model in evaluation mode.

    All processes call it together, with the same frames. The averages that training leaves belong to weights of many
    steps; each norm gets those of its own input here, behind norms that have theirs.
    """
    model.eval()
    norms = norms_of(model)
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(frames)
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
    model.eval()


def itakura_saito(power: Tensor, estimate: Tensor) -> Tensor:
    """[n, 513] power spectra and estimates of them -> [n] Itakura-Saito divergence, mean over bins."""
    ratio = (power + POWER_EPS) / (estimate + POWER_EPS)
    return (ratio - ratio.log() - 1).mean(dim=1)

"""The objective of masked pre-training: pixels of hidden patches.

No label is used. A batch is transformed as that of a classifier, then most of its tokens are hidden: see
`train.data.masks`. Where both modalities share tokens, hiding one of them wholly is done in the picture: its faces or
spectrograms are replaced by their mean in what the encoder sees, and are in the target all the same.

What a recording does not have is not predicted: tokens of a modality that a clip lacks do not count in its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.classification import autocast, run_inference
from train.data.augment import ClipDraws
from train.data.batches import Batch
from train.data.loader import CachedLoader, Loader
from train.data.masks import LACKS, Masks, MaskSettings, TokenLayout
from train.data.transforms import PIXEL_RANGES, ClipTransform
from train.distributed import Ranks
from train.models.mae import MaskedAutoencoder, patch_targets, reconstruction_losses
from train.models.videomae import InputRange

#: Names of what a probe measures.
PROBES = ("linear_probe", "nearest_neighbour")
#: Epoch that masks of a validation are drawn from, which no training has: the same after each epoch.
VALIDATION_EPOCH = 0
#: Code of a hidden modality -> code of a clip that lacks it.
_MISSING = {modality: code for code, modality in LACKS.items()}


class MaskedClips(NamedTuple):
    """Clips as the model sees them, and what it should predict."""

    inputs: Tensor
    """[B, 3, T, H, W] on the encoder's scale, as the model gets it."""
    pixels: Tensor
    """[B, 3, T, H, W] RGB in 0..1 of the complete clips."""
    masks: Masks
    """On the device."""
    targets: Tensor
    """[B, N, P] what each patch should be painted as, float32."""
    counted: Tensor | None
    """bool [B, m] decoded tokens whose modality the recording has; None where all have both."""

    def losses(self, predicted: Tensor) -> Tensor:
        """[B, m, P] -> [B]: see `reconstruction_losses`."""
        return reconstruction_losses(predicted, self.targets, self.masks.decoded, self.counted)


@dataclass(kw_only=True, eq=False)
class Reconstruction:
    """Trains a `MaskedAutoencoder`; the last epoch is kept."""

    transform: ClipTransform
    """Without classes."""
    layout: TokenLayout
    masks: MaskSettings
    patch: tuple[int, int, int]
    """Of the encoder's configuration."""
    motion: bool = False
    """As of `patch_targets`."""
    seed: int = 0
    probe: Callable[[nn.Module], dict[str, float]] | None = None
    """Model -> numbers that say how well its features tell classes apart, after each validation."""
    selects_epoch: bool = False

    def loss(self, model: Callable[..., Tensor], batch: Batch, epoch: int) -> Tensor:
        """Sum of the clips' losses, [], each the mean over the draws of the clip."""
        clips = self.masked(batch, epoch, training=True)
        with autocast(clips.inputs.device):
            predicted = model(clips.inputs, clips.masks.visible, clips.masks.decoded)
        return clips.losses(predicted).sum() / self.transform.repeats

    def masked(self, batch: Batch, epoch: int, *, training: bool) -> MaskedClips:
        """A batch on a device, augmented if it is for training, with masks that belong to (seed, epoch, clip)."""
        repeats = self.transform.repeats if training else 1
        common = {"keys": batch.draw_keys, "seed": self.seed, "epoch": epoch}
        drawn = [self.layout.draw(self.masks, ClipDraws(draw=draw, **common), batch.missing) for draw in range(repeats)]
        device = batch.labels.device
        masks = Masks(
            torch.cat([each.visible for each in drawn]).to(device, non_blocking=True),
            torch.cat([each.decoded for each in drawn]).to(device, non_blocking=True),
            tuple(code for each in drawn for code in each.hidden_modality),
        )
        shown = self._video(batch, epoch, training)
        pixels = to_pixels(shown, self.transform.input_range)
        targets = patch_targets(pixels, self.patch, motion=self.motion)
        if not self.layout.separable and any(masks.hidden_modality):
            parts = [self._video(_without(batch, each.hidden_modality), epoch, training) for each in drawn]
            # Each is a batch of all draws, of which only its own counts.
            rows = [part.chunk(repeats)[draw] for draw, part in enumerate(parts)]
            shown = torch.cat(rows)
        return MaskedClips(shown, pixels, masks, targets, self._counted(masks.decoded, batch.missing * repeats))

    def _counted(self, decoded: Tensor, missing: tuple[int, ...]) -> Tensor | None:
        if not any(missing):
            return None
        lacking = torch.tensor([LACKS.get(code, 0) for code in missing], device=decoded.device)
        shown = torch.from_numpy(self.layout.codes.reshape(-1)).to(decoded.device)[decoded]
        return shown != lacking[:, None]

    def _video(self, batch: Batch, epoch: int, training: bool) -> Tensor:
        made = self.transform.training_input(batch, epoch) if training else self.transform.evaluation_input(batch)
        return made.inputs

    def validate(
        self, model: nn.Module, loader: Loader | CachedLoader, ranks: Ranks, micro_batches: int
    ) -> dict[str, float]:
        """Mean loss of the clips of a loader, with masks that are always the same, and what the probe says."""
        model.eval()
        scores = {"validation_loss": self._mean_loss(model, loader, ranks, micro_batches)}
        return scores | (self.probe(model) if self.probe else {})

    @torch.inference_mode()
    def _mean_loss(self, model: nn.Module, loader: Loader | CachedLoader, ranks: Ranks, micro_batches: int) -> float:
        total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        for part in micro_batched(loader, micro_batches):
            clips = self.masked(part.to(ranks.device), VALIDATION_EPOCH, training=False)
            with autocast(ranks.device):
                predicted = model(clips.inputs, clips.masks.visible, clips.masks.decoded)
            total += clips.losses(predicted).sum()
        return float(ranks.sum(total)) / loader.sampler.clips

    def describe(self, scores: dict[str, float]) -> str:
        """Loss, and accuracies of the probe."""
        accuracies = [
            f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in scores.items() if name in PROBES
        ]
        return ", ".join([f"{scores['validation_loss']:.4f}", *accuracies])


def micro_batched(loader: Loader | CachedLoader, micro_batches: int) -> Iterator[Batch]:
    """Micro-batches of all clips of a loader that does not shuffle."""
    for batch in loader.epoch(0):
        yield from batch.split(loader.sampler.micro_batch_size(micro_batches))


def to_pixels(video: Tensor, input_range: InputRange) -> Tensor:
    """[B, 3, T, H, W] on an encoder's scale -> RGB in 0..1, float32."""
    scale = PIXEL_RANGES[input_range]
    mean, std = (torch.tensor(rgb, device=video.device)[:, None, None, None] for rgb in (scale.mean, scale.std))
    return video.float() * std + mean


def _without(batch: Batch, hidden: tuple[int, ...]) -> Batch:
    """A batch in which each clip lacks the modality that is hidden, or what it lacked before."""
    recorded = batch.missing or (0,) * len(batch)
    codes = (_MISSING.get(modality, code) for code, modality in zip(recorded, hidden, strict=True))
    return replace(batch, missing=tuple(codes))


def encode_clips(
    model: MaskedAutoencoder, loader: Loader, transform: ClipTransform, ranks: Ranks, micro_batches: int = 1
) -> Tensor:
    """Mean token of the encoder, which sees all tokens, of all clips of a loader in order: float32 [clips, D]."""
    return run_inference(
        lambda video: model.encoder(video).mean(dim=1, dtype=torch.float32), loader, transform, ranks, micro_batches
    )

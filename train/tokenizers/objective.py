"""The objective of tokenizers: reconstruct spectra by Itakura-Saito divergence, and faces by squared error (paper 3.1).

Shape suffixes: B clips; n spectra and m faces of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from train.data.augment import ClipDraws
from train.data.batches import SequenceBatch
from train.data.loader import CachedLoader, Loader
from train.data.missing import FACES, SOUND, WHOLLY
from train.data.spectrograms import clip_power
from train.distributed import Ranks
from train.models.codebook import perplexity
from train.models.vqvae import BINS, Tokenized, Tokenizers, calibrate
from train.recipes import Tokenizing

#: Faces of a clip that are measured, evenly spaced over it, whatever a training draws: all that a reader gives.
MEASURED_FACES = 16


class Reference(NamedTuple):
    """Some frames of training clips, on the device."""

    power: Tensor
    """[n, 513] spectra of all clips, evenly spaced."""
    face: Tensor
    """[3, 96, 96] mean of `MEASURED_FACES` of each clip."""


@dataclass(kw_only=True, eq=False)
class Tokenization:
    """Trains `Tokenizers`; the last epoch is kept."""

    settings: Tokenizing
    reference: Callable[[], Reference]
    """Training clips that batch norms are calibrated on, and their means; equal on all ranks."""
    fixed_after: int
    """Epochs after which the encoder of sound and its norms stay as they are, calibrated."""
    seed: int = 0
    selects_epoch: bool = False

    def loss(self, model: Callable[..., tuple[Tokenized, Tokenized]], batch: SequenceBatch, epoch: int) -> Tensor:
        """Sum of the clips' losses, [], each the mean over its spectra plus the mean over its faces."""
        tokenizers = cast(Tokenizers, getattr(model, "module", model))
        if epoch > self.fixed_after and not tokenizers.audio.fixed:
            tokenizers.audio.fix(self.reference().power)
        draws = ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=epoch)
        power = draw_spectra(batch, draws.uniform("spectra", self.settings.spectra))
        with_sound, with_faces = present(batch, SOUND), present(batch, FACES)
        power, faces = _frames_of(power, with_sound), _frames_of(faces_of(batch), with_faces)
        heard, seen = model(power, faces)
        audio = tokenizers.audio.losses(power, heard.reconstruction) + self.settings.commitment * heard.commitment
        visual = tokenizers.visual.losses(faces, seen.reconstruction) + self.settings.commitment * seen.commitment
        return _sum_over_clips(audio, with_sound) + _sum_over_clips(visual, with_faces)

    def validate(
        self, model: nn.Module, loader: Loader | CachedLoader, ranks: Ranks, micro_batches: int
    ) -> dict[str, float]:
        """What `measure` measures of a loader's clips once batch norms are calibrated."""
        del micro_batches  # clips are encoded one by one
        tokenizers, reference = cast(Tokenizers, model), self.reference()
        if not tokenizers.audio.fixed:
            calibrate(tokenizers.audio, reference.power)
        scores = measure(tokenizers.eval(), cast(Loader, loader), reference, ranks)
        return {"validation_loss": scores["divergence"] + scores["squared_error"], **scores}

    def describe(self, scores: dict[str, float]) -> str:
        """The same in a few words."""
        return (
            f"Itakura-Saito {scores['divergence']:.3f}, PSNR {scores['psnr']:.2f} dB, perplexity "
            f"{scores['audio_perplexity']:.0f} of sound and {scores['visual_perplexity']:.0f} of faces"
        )


@torch.inference_mode()
def measure(model: Tokenizers, loader: Loader, reference: Reference, ranks: Ranks) -> dict[str, float]:
    """How well tokenizers in evaluation mode reconstruct the clips of a loader: all spectra, and the faces it gives.

    These are `MEASURED_FACES` of each clip where the loader is one of `TokenizerSetup` that is not for training.

    `divergence` is Itakura-Saito, mean over spectra; `squared_error` of RGB in 0..1, `psnr` the same in dB. Those with
    `mean_` are what mean spectrum and mean face of training clips reach. Perplexities are those of all codes together.
    """
    tokenizers = {SOUND: model.audio, FACES: model.visual}
    means = {SOUND: reference.power.mean(dim=0), FACES: reference.face}
    exact = {"dtype": torch.float64, "device": ranks.device}
    used = {name: torch.zeros(len(each.codebook), **exact) for name, each in tokenizers.items()}
    sums = {name: torch.zeros(3, **exact) for name in tokenizers}
    for batch in loader.epoch(0):
        for row in range(len(batch)):
            clip = cast(SequenceBatch, batch[row : row + 1].to(ranks.device))
            for name, tokenizer in tokenizers.items():
                if present(clip, name):
                    frames = power_of(clip, 0) if name == SOUND else faces_of(clip)
                    found: Tokenized = tokenizer(frames)
                    for place, estimate in enumerate((found.reconstruction, means[name])):
                        sums[name][place] += tokenizer.distances(frames, estimate).double().sum()
                    sums[name][2] += len(frames)
                    used[name] += torch.bincount(found.codes.flatten(), minlength=len(tokenizer.codebook))
    scores = dict[str, float]()
    for name, key in ((SOUND, "divergence"), (FACES, "squared_error")):
        distance, mean_distance, count = ranks.sum(sums[name]).tolist()
        scores |= {key: distance / max(count, 1), f"mean_{key}": mean_distance / max(count, 1)}
    scores |= {"psnr": psnr(scores["squared_error"]), "mean_psnr": psnr(scores["mean_squared_error"])}
    named = ((SOUND, "audio_perplexity"), (FACES, "visual_perplexity"))
    return scores | {key: float(perplexity(ranks.sum(used[name]))) for name, key in named}


def psnr(squared_error: float) -> float:
    """Of values in 0..1, in dB; at most 100."""
    return -10 * math.log10(max(squared_error, 1e-10))


def power_of(batch: SequenceBatch, row: int) -> Tensor:
    """[n, 513] power spectra of the whole sound of a clip, on the batch's device."""
    return clip_power(batch.sounds.samples[row], batch.labels.device)


def draw_spectra(batch: SequenceBatch, drawn: np.ndarray) -> Tensor:
    """Of each clip some of its spectra, in one line [B S, 513]; `drawn` [B, S] in 0..1 says which."""
    device = batch.labels.device
    clips = zip(batch.sounds.samples, torch.from_numpy(drawn), strict=True)
    return torch.cat([torch.empty(0, BINS, device=device), *(clip_power(sound, device, each) for sound, each in clips)])


def faces_of(batch: SequenceBatch) -> Tensor:
    """Faces of all clips in one line, RGB in 0..1, [m, 3, 96, 96]."""
    return batch.frames[:, 0].flatten(0, 1).permute(0, 3, 1, 2).float() / 255


def present(batch: SequenceBatch, modality: str) -> Tensor:
    """bool [B] False for a clip whose recording has nothing of a modality."""
    codes = batch.missing or (0,) * len(batch)
    flags = [WHOLLY.get(code) != modality for code in codes]
    return torch.tensor(flags, dtype=torch.bool, device=batch.labels.device)


def _frames_of(frames: Tensor, clips: Tensor) -> Tensor:
    """Of frames of B clips, as many of each, those of some clips, bool [B]."""
    return frames[clips.repeat_interleave(len(frames) // max(len(clips), 1))]


def _sum_over_clips(losses: Tensor, clips: Tensor) -> Tensor:
    """Losses of the frames of some clips, bool [B] -> sum over these of the mean over each one's frames."""
    return losses.view(int(clips.sum()), -1).mean(dim=1).sum() if len(losses) else losses.sum()

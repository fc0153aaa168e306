"""Pictures and sounds of tokenizers: curves, spectra and faces as they are and as they are decoded from their codes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor

from manifests.schema import SAMPLE_RATE_HZ
from train.data.spectrograms import POWER_HOP_SAMPLES, POWER_WINDOW_SAMPLES
from train.report.plots import BLUE, GREEN, ORANGE, WIDTH_INCHES, as_png, make_figure

#: What pictures show of each clip.
TRUE_AND_DECODED = ("true", "decoded")
#: Of Griffin and Lim's algorithm.
_ITERATIONS = 60
#: Weakest power that a picture of spectra shows, below the strongest.
_RANGE_DB = 80.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedClip:
    """A clip and what tokenizers make of it, on the CPU."""

    key: str
    power: Tensor
    """[n, 513]."""
    decoded_power: Tensor
    faces: Tensor
    """[F, 3, 96, 96] RGB in 0..1."""
    decoded_faces: Tensor


@as_png
def draw_curves(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, divergence, PSNR and perplexity by epoch; dashed, what the mean of training clips reaches."""
    figure = make_figure(4.4)
    (loss, divergence), (psnr, perplexity) = figure.subplots(2, 2)
    panels = (
        (loss, "loss", (("train_loss", BLUE, "training", "-"),)),
        (
            divergence,
            "Itakura-Saito divergence",
            (("divergence", ORANGE, "decoded", "-"), ("mean_divergence", ORANGE, "mean spectrum", "--")),
        ),
        (psnr, "PSNR, dB", (("psnr", GREEN, "decoded", "-"), ("mean_psnr", GREEN, "mean face", "--"))),
        (
            perplexity,
            "perplexity of codes",
            (("audio_perplexity", ORANGE, "sound", "-"), ("visual_perplexity", GREEN, "faces", "-")),
        ),
    )
    for axes, label, lines in panels:
        for name, colour, title, style in lines:
            if points := [(line["epoch"], line[name]) for line in epochs if name in line]:
                axes.plot(*zip(*points, strict=True), style, marker=".", color=colour, label=title)
        axes.set(xlabel="epoch", ylabel=label)
        if axes.lines:
            axes.legend()
        axes.grid(axis="y")
    return figure


@as_png
def draw_spectra(clips: Sequence[DecodedClip], title: str, names: tuple[str, str] = TRUE_AND_DECODED) -> Figure:
    """Power spectra of each clip over time, in dB, beside those that are decoded; `names` are those of both."""
    figure = make_figure(0.4 + 1.9 * len(clips))
    figure.suptitle(title)
    rows = figure.subplots(len(clips), 2, squeeze=False)
    for axes, clip in zip(rows, clips, strict=True):
        top = float(_decibel(clip.power).max())
        for panel, (name, power) in zip(axes, zip(names, (clip.power, clip.decoded_power), strict=True), strict=True):
            seconds = len(power) * POWER_HOP_SAMPLES / SAMPLE_RATE_HZ
            shown = {"extent": (0, seconds, 0, SAMPLE_RATE_HZ / 2000), "vmin": top - _RANGE_DB, "vmax": top}
            panel.imshow(_decibel(power).T, origin="lower", aspect="auto", cmap="magma", **shown)
            panel.set_title(f"{clip.key}: {name}", fontsize=7)
        axes[0].set_ylabel("kHz")
    for panel in rows[-1]:
        panel.set_xlabel("seconds")
    return figure


@as_png
def draw_faces(clips: Sequence[DecodedClip], title: str, names: tuple[str, str] = TRUE_AND_DECODED) -> Figure:
    """Faces of all clips side by side, above those that are decoded; `names` are those of both."""
    strips = [
        (name, torch.cat([*torch.cat(list(faces)).clamp(0, 1)], dim=-1).permute(1, 2, 0).numpy())
        for name, faces in (
            (names[0], (clip.faces for clip in clips)),
            (names[1], (clip.decoded_faces for clip in clips)),
        )
    ]
    rows, columns = strips[0][1].shape[:2]
    figure = make_figure(0.4 + 2 * WIDTH_INCHES * rows / columns)
    figure.suptitle(title)
    for axes, (name, strip) in zip(figure.subplots(2, 1), strips, strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, fontsize=7)
    return figure


def _decibel(power: Tensor) -> np.ndarray:
    """[n, 513] in dB."""
    return 10 * power.clamp(min=1e-12).log10().numpy()


def griffin_lim(power: Tensor, seed: int = 0) -> Tensor:
    """[n, 513] power spectra -> [320 (n - 1)] sound of about these, its phases estimated (Griffin and Lim 1984).

    Begins with random phases of `seed`.
    """
    window, samples = torch.hann_window(POWER_WINDOW_SAMPLES), (len(power) - 1) * POWER_HOP_SAMPLES
    options: dict[str, Any] = {"n_fft": POWER_WINDOW_SAMPLES, "hop_length": POWER_HOP_SAMPLES, "window": window}
    magnitude = power.T.sqrt()
    angles = 2 * torch.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.polar(magnitude, angles)
    for _ in range(_ITERATIONS):
        sound = torch.istft(spectrum, length=samples, **options)
        found = torch.stft(sound, pad_mode="constant", return_complex=True, **options)
        spectrum = magnitude * found / found.abs().clamp(min=1e-12)
    return torch.istft(spectrum, length=samples, **options)


def as_wav(sound: Tensor) -> bytes:
    """Sound [n] at 16 kHz -> a WAV file, its peak at most 1."""
    buffer = io.BytesIO()
    scaled = sound / sound.abs().max().clamp(min=1)
    soundfile.write(buffer, scaled.numpy(), SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()

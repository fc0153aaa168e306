"""The page of trained tokenizers: curves, what they reach, and clips to look at and to listen to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import torch

from manifests.files import atomic_write
from manifests.text import pluralize
from train.data.batches import SequenceBatch
from train.data.missing import FACES, SOUND
from train.pretraining.page import read_epochs
from train.report.render import ReportFigure, ReportSection, ReportSound, ReportTable, TableRow, render_report
from train.report.tokenizers import DecodedClip, as_wav, draw_curves, draw_faces, draw_spectra, griffin_lim
from train.tokenizers.objective import MEASURED_FACES, faces_of, power_of, present

if TYPE_CHECKING:
    from train.tokenizers.setup import TokenizerSetup

PAGE_FILE = "report.html"
SOUND_FILE = "decoded.wav"
#: Clips that are shown, and faces of each.
SHOWN_CLIPS, SHOWN_FACES = 3, 4


def write_page(setup: TokenizerSetup, scores: dict[str, float]) -> None:
    """Write `report.html` and `decoded.wav` into the run's folder. Raises OSError."""
    clips = decode_clips(setup)
    title = "Clips of validation speakers" if setup.validates else "Clips"
    figures = [ReportFigure(name="curves.png", text="Curves", png=draw_curves(read_epochs(setup.folder)))]
    sounds = []
    if clips:
        sound = as_wav(griffin_lim(clips[0].decoded_power))
        atomic_write(setup.folder / SOUND_FILE, sound)
        figures += [
            ReportFigure(name="spectra.png", text="Spectra, true and decoded", png=draw_spectra(clips, title)),
            ReportFigure(
                name="faces.png",
                text="Faces, true and decoded",
                png=draw_faces(clips, ", ".join(clip.key for clip in clips)),
            ),
        ]
        said = f"{clips[0].key}: phases are estimated by Griffin and Lim's algorithm, from"
        sounds = [
            ReportSound(text=f"{said} the true spectra", wav=as_wav(griffin_lim(clips[0].power))),
            ReportSound(text=f"{said} spectra that are decoded from codes", wav=sound),
        ]
    section = ReportSection(
        title=setup.data.name,
        tables=(_scores(setup, scores), _settings(setup)),
        figures=tuple(figures),
        sounds=tuple(sounds),
    )
    introduction = (
        "Tokenizers of VQ-MAE-AV: a spectrum becomes 64 codes, a face 24x24. Whenever they are measured, batch norms "
        "have the statistics of training clips, as in the model. Perplexity is how many codes, equally used, would be "
        "as diverse as those of the measured clips. Of each of these all spectra are measured, and "
        f"{MEASURED_FACES} evenly spaced faces."
    )
    _, page = render_report("Tokenizers", introduction, [section])
    atomic_write(setup.folder / PAGE_FILE, page.encode())


def _scores(setup: TokenizerSetup, scores: dict[str, float]) -> ReportTable:
    model = setup.model
    rows = (
        ("Itakura-Saito divergence of spectra", f"{scores['divergence']:.3f}", f"{scores['mean_divergence']:.3f}"),
        ("PSNR of faces, dB", f"{scores['psnr']:.2f}", f"{scores['mean_psnr']:.2f}"),
        ("perplexity of codes of sound", f"{scores['audio_perplexity']:.1f} of {len(model.audio.codebook)}", "1"),
        ("perplexity of codes of faces", f"{scores['visual_perplexity']:.1f} of {len(model.visual.codebook)}", "1"),
    )
    return ReportTable(
        title="On validation speakers" if setup.validates else "On the clips that were trained on",
        columns=("", "decoded from codes", "mean of the training clips"),
        rows=tuple(TableRow(cells=row) for row in rows),
    )


def _settings(setup: TokenizerSetup) -> ReportTable:
    recipe, settings = setup.config.recipe, setup.settings
    rows = {
        "recipe": f"{recipe.name}, {pluralize(recipe.epochs, 'epoch')} of {len(setup.data.training):,} clips",
        "a step": f"{recipe.batch * settings.spectra:,} spectra and {recipe.batch * settings.faces} faces of "
        f"{recipe.batch} clips",
        "audio": json.dumps(vars(setup.model.audio.config)),
        "visual": json.dumps(vars(setup.model.visual.config)),
        "lineage": str(setup.lineage),
    }
    return ReportTable(
        title="Settings",
        columns=("", "value"),
        rows=tuple(TableRow(cells=(name, value)) for name, value in rows.items()),
    )


@torch.inference_mode()
def decode_clips(setup: TokenizerSetup) -> list[DecodedClip]:
    """Some of the measured clips, those with both modalities, as they are and decoded from their codes."""
    clips, model = setup.measured, setup.model.eval()
    spaced = torch.linspace(0, len(clips) - 1, min(SHOWN_CLIPS, len(clips))).round().long().unique().numpy()
    shown = []
    for batch in setup.make_whole_loader(clips.take(spaced)).epoch(0):
        sequences = cast(SequenceBatch, batch.to(setup.ranks.device))
        both = present(sequences, SOUND) & present(sequences, FACES)
        for row, key in enumerate(batch.keys):
            if both[row]:
                power, measured = power_of(sequences, row), faces_of(cast(SequenceBatch, sequences[row : row + 1]))
                faces = measured[:: MEASURED_FACES // SHOWN_FACES]
                decoded = model.audio.decode(model.audio.encode(power)), model.visual.decode(model.visual.encode(faces))
                shown.append(
                    DecodedClip(
                        key=key,
                        power=power.cpu(),
                        decoded_power=decoded[0].cpu(),
                        faces=faces.cpu(),
                        decoded_faces=decoded[1].cpu(),
                    )
                )
    return shown

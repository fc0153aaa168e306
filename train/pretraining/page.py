"""The page of a pre-training: curves, and clips as they are, as the encoder sees them, and as they are painted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from manifests.files import atomic_write
from manifests.text import pluralize
from train.classification import autocast
from train.data.masks import SHOWS_BOTH, SHOWS_FACES, SHOWS_SOUND, MaskSettings, TokenLayout
from train.distributed import Ranks
from train.models.mae import hide_patches, paint
from train.pretraining.reconstruction import PROBES, VALIDATION_EPOCH, to_pixels
from train.report.plots import BLUE, GREEN, ORANGE, as_png, make_figure
from train.report.reconstructions import HIDDEN, Reconstruction, draw_reconstructions
from train.report.render import ReportFigure, ReportSection, ReportTable, TableRow, render_report
from train.runs import LOG_FILE

if TYPE_CHECKING:
    from train.pretraining.setup import PretrainingSetup

PAGE_FILE = "report.html"
#: Clips that are shown.
SHOWN_CLIPS = 3
_GREY = "#999999"


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Lines of the log about epochs that were validated, or the last one; of a repeated epoch the last line."""
    return list(_read_lines(folder, "epoch").values())


def _read_lines(folder: Path, number: str) -> dict[int, dict[str, Any]]:
    """Epoch or step -> its last line in the log."""
    lines = (json.loads(line) for line in (folder / LOG_FILE).read_bytes().splitlines())
    found = {line[number]: line for line in lines if number in line}
    return dict(sorted(found.items()))


def write_page(setup: PretrainingSetup, result: Mapping[str, Any]) -> None:
    """Write `report.html` into the run's folder; `result` is what is written of the run. Raises OSError."""
    epochs, steps = read_epochs(setup.folder), list(_read_lines(setup.folder, "step").values())
    per_epoch = setup.config.recipe.steps_per_epoch(len(setup.data.training))
    figures = [
        ReportFigure(
            name="curves.png", text="Loss, probes and learning rate", png=draw_curves(epochs, steps, per_epoch)
        ),
        ReportFigure(
            name="reconstructions.png",
            text="Clips as they are, as the encoder sees them, and painted",
            png=_draw_clips(setup),
        ),
    ]
    tables = [_settings(setup)]
    if patches := result.get("hidden_patches"):
        tables.append(_hidden_patches(patches))
    if modalities := result.get("hidden_modality"):
        tables.append(_hidden_modality(modalities))
    section = ReportSection(
        title=f"{setup.data.name}, {setup.config.strategy}", tables=tuple(tables), figures=tuple(figures)
    )
    introduction = (
        "Masked pre-training: the encoder sees the visible patches of a clip, a decoder paints the hidden ones. No "
        "label was used to train; probes use labels of training speakers to classify clips of validation speakers, "
        "only to look at. Painted patches have the mean and deviation of the true ones, which are not predicted."
    )
    _, page = render_report("Pre-training", introduction, [section])
    atomic_write(setup.folder / PAGE_FILE, page.encode())


def _settings(setup: PretrainingSetup) -> ReportTable:
    recipe, masks = setup.config.recipe, setup.settings
    decoder = setup.model.decoder.config
    rows = {
        "begins with": setup.origin,
        "recipe": f"{recipe.name}, {pluralize(recipe.epochs, 'epoch')} of {len(setup.data.training):,} clips, "
        f"batch {recipe.batch}",
        "encoder; decoder": f"{setup.config.encoder}; {decoder.depth} blocks of width {decoder.width}",
        "hidden": describe_hidden(setup.objective.layout, masks),
        "predicted": f"{100 * masks.decoded:g} % of what is hidden{', and motion' if masks.motion else ''}",
        "lineage": str(setup.lineage),
    }
    return ReportTable(
        title="Settings",
        columns=("", "value"),
        rows=tuple(TableRow(cells=(name, value)) for name, value in rows.items()),
    )


def describe_hidden(layout: TokenLayout, masks: MaskSettings) -> str:
    """Hidden shares of the tokens, which are of whole tubes, and the share of the clips that lose one of both."""
    shown = {SHOWS_FACES: "faces", SHOWS_SOUND: "sound", SHOWS_BOTH: "tokens, which show both"}
    visible = layout.visible_tubes(masks)
    shares = {code: 1 - visible[code] / len(tubes) for code, tubes in layout.groups.items()}
    parts = ", ".join(f"{100 * share:.3g} % of the {shown[code]}" for code, share in shares.items())
    if not masks.hide_modality or layout.groups.keys() in ({SHOWS_FACES}, {SHOWS_SOUND}):
        return parts
    how = "hidden wholly instead" if layout.separable else "replaced by its mean, too"
    return f"{parts}; in {100 * masks.hide_modality:g} % of the clips with both, one modality is {how}"


def _hidden_patches(found: Mapping[str, Mapping[str, float]]) -> ReportTable:
    """What patches show -> fields of a `PatchLosses`."""
    columns = ("model", "mean_patch", "nearest_visible", "mean_of_place")
    rows = [(name, *(f"{each[column]:.4f}" for column in columns)) for name, each in found.items()]
    return ReportTable(
        title="Hidden patches of validation clips: loss if painted by",
        columns=("hidden", "the model", "their own mean", "the nearest visible patch", "the mean of the place"),
        rows=tuple(TableRow(cells=row) for row in rows),
    )


def _hidden_modality(found: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """Modality -> fields of a `CrossModal`."""
    rows = [
        (
            name,
            *(f"{each[painted]:.4f}" for painted in ("own", "shifted", "other")),
            *(f"{each[better]} of {each['clips']}" for better in ("better_than_shifted", "better_than_other")),
        )
        for name, each in found.items()
    ]
    return ReportTable(
        title="One modality hidden wholly: loss of validation clips",
        columns=(
            *("hidden", "painted from the clip's other modality", "from the same half a clip later"),
            *("from that of other clips", "own better than later", "own better than others"),
        ),
        rows=tuple(TableRow(cells=row) for row in rows),
    )


@as_png
def draw_curves(epochs: list[dict[str, Any]], steps: list[dict[str, Any]], steps_per_epoch: int) -> Figure:
    """Losses and accuracies of probes by epoch, learning rate by step."""
    figure = make_figure(3.0)
    loss, rate = figure.subplots(1, 2)
    for name, colour, title in (("train_loss", BLUE, "training"), ("validation_loss", ORANGE, "validation")):
        points = [(line["epoch"], line[name]) for line in epochs if name in line]
        if points:
            loss.plot(*zip(*points, strict=True), marker=".", color=colour, label=title)
    loss.set(xlabel="epoch", ylabel="loss of hidden patches")
    loss.plot([], [], color=_GREY, linestyle=":", label="learning rate")
    loss.legend()
    probes = [name for name in PROBES if any(name in line for line in epochs)]
    for name, style in zip(probes, ("-", "--"), strict=False):
        points = [(line["epoch"], 100 * line[name]) for line in epochs if name in line]
        rate.plot(*zip(*points, strict=True), style, marker=".", color=GREEN, label=name.replace("_", " "))
    if probes:
        rate.set(xlabel="epoch", ylabel="accuracy of validation speakers, %")
        rate.legend()
        rate = loss.twinx()
    rate.plot(*_learning_rate(steps, steps_per_epoch), color=_GREY, linestyle=":")
    rate.set_ylabel("learning rate")
    return figure


def _learning_rate(steps: list[dict[str, Any]], steps_per_epoch: int) -> tuple[list[float], list[float]]:
    """Epoch, as a fraction, and learning rate of logged steps."""
    return [line["step"] / steps_per_epoch for line in steps], [line["learning_rate"] for line in steps]


@torch.inference_mode()
def _draw_clips(setup: PretrainingSetup) -> bytes:
    """Clips of validation speakers or, without any, of training speakers."""
    clips = setup.validation_clips if setup.validates else setup.data.training
    spaced = torch.linspace(0, len(clips) - 1, min(SHOWN_CLIPS, len(clips))).round().long().unique().numpy()
    objective, patch = setup.objective, setup.objective.patch
    objective.masks = replace(setup.settings, decoded=1.0)  # all that is hidden is painted
    setup.model.eval()
    shown = []
    alone = replace(setup, ranks=Ranks(device=setup.ranks.device))  # one process paints, and reads all clips
    for batch in alone.make_loader(clips.take(spaced)).epoch(0):
        found = objective.masked(batch.to(setup.ranks.device), VALIDATION_EPOCH, training=False)
        visible, decoded = found.masks.visible, found.masks.decoded
        with autocast(setup.ranks.device):
            predicted = setup.model(found.inputs, visible, decoded)
        seen = to_pixels(found.inputs, setup.transform.input_range)
        rows = {
            "original": found.pixels,
            "visible": hide_patches(seen, visible, patch, HIDDEN),
            "painted": paint(found.pixels, predicted, decoded, patch, motion=objective.motion),
        }
        shown += [
            Reconstruction(key=key, videos={name: videos[i].cpu() for name, videos in rows.items()})
            for i, key in enumerate(batch.keys)
        ]
    return draw_reconstructions(
        shown, setup.transform.strategy, "Clips of validation speakers" if setup.validates else "Clips"
    )

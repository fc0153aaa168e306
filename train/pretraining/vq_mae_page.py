"""The page of a VQ-MAE-AV's pre-training: settings, curves, and what it predicts of validation speakers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from manifests.files import atomic_write
from manifests.text import pluralize
from train.data.augment import ClipDraws
from train.data.token_masks import draw_fixed_masks
from train.data.token_transform import window_codes
from train.distributed import Ranks
from train.models.tokenizer_files import load_tokenizers
from train.models.vq_mae_av import AUDIO, VISUAL, join_tubes, split_tubes
from train.pretraining.hidden_codes import VALIDATION_EPOCH
from train.pretraining.page import PAGE_FILE, SHOWN_CLIPS, read_epochs
from train.report.plots import BLUE, GREEN, ORANGE, as_png, make_figure
from train.report.render import ReportFigure, ReportSection, ReportTable, TableRow, render_report
from train.report.tokenizers import DecodedClip, draw_faces, draw_spectra

#: Hidden share of what is painted.
_HIDDEN = 0.8
#: Fields of a decoded clip by modality, and which frames are shown: all spectra, every seventh face.
_FIELDS = {AUDIO: ("power", "decoded_power"), VISUAL: ("faces", "decoded_faces")}
_EVERY = {AUDIO: 1, VISUAL: 7}

if TYPE_CHECKING:
    from train.pretraining.vq_mae import VqMaePretraining

#: Modality -> its words.
_WORDS = {AUDIO: "sound", VISUAL: "faces"}
#: Measure -> its words.
_MEASURES = {
    "accuracy": "hidden codes, masks as in training",
    "place": "the same, guessed: the most frequent code of the place in training clips",
    "unigram": "the same, guessed: the most frequent code of all",
    "accuracy_90": "90 % of the tokens hidden",
    "accuracy_90_swapped": "the same, with another clip's other modality",
    "accuracy_90_alone": "the same, without the other modality",
    "accuracy_other": "from the other modality only",
    "accuracy_other_swapped": "the same, from another clip's",
}
_RETRIEVALS = {
    "retrieval": "among the clip and {others} evenly spaced ones",
    "retrieval_near": "among the clip and {others} that follow, mostly of the same speaker",
}


def write_page(setup: VqMaePretraining, result: Mapping[str, Any]) -> None:
    """Write `report.html` into the run's folder; `result` is what is written of the run. Raises OSError."""
    epochs = read_epochs(setup.folder)
    curves = ReportFigure(name="curves.png", text="Losses and accuracies by epoch", png=draw_curves(epochs))
    section = ReportSection(
        title=f"{setup.data.name}, {setup.config.strategy}",
        tables=(_settings(setup), *_measures(epochs[-1], result)),
        figures=(curves, *_paint(setup)),
    )
    _, page = render_report("Pre-training", _introduce(setup), [section])
    atomic_write(setup.folder / PAGE_FILE, page.encode())


def _introduce(setup: VqMaePretraining) -> str:
    """What the model is trained to do, with its modalities and losses, and on whom it was measured."""
    settings, seen = setup.settings, " and ".join(_WORDS[name] for name in setup.model.config.shapes)
    sentences = ["Masked pre-training on codes." if _is_masked(setup) else "Pre-training on codes."]
    if settings.generative:
        sentences.append(
            f"The encoder sees the visible tokens of {seen}, and a decoder predicts the codes of hidden ones."
        )
    if settings.contrastive:
        sentences.append(f"Global tokens of a clip's sound and face, {_passes(setup)}, are drawn together.")
    sentences.append("No label was used.")
    if setup.validates:
        sentences.append("Measured on validation speakers, none of whose clips were trained on.")
    else:
        sentences.append("Nothing was measured: all speakers were trained on.")
    return " ".join(sentences)


def _is_masked(setup: VqMaePretraining) -> bool:
    """Whether a loss is of a masked pass."""
    return setup.settings.generative > 0 or not setup.settings.separate


def _passes(setup: VqMaePretraining) -> str:
    separate = "of two separate passes, each of one modality, all visible"
    return separate if setup.settings.separate else "of the masked pass"


def _settings(setup: VqMaePretraining) -> ReportTable:
    recipe, settings = setup.config.recipe, setup.settings
    weights = {"generative": settings.generative, "contrastive": settings.contrastive}
    rows = {
        "begins with": setup.origin,
        "recipe": f"{recipe.name}, {pluralize(recipe.epochs, 'epoch')} of {len(setup.data.training):,} clips, "
        f"batch {recipe.batch}",
        "model": str(setup.model.config),
        "loss": " + ".join(f"{weight:g} x {name}" for name, weight in weights.items() if weight),
    }
    if settings.contrastive:
        rows["separate"] = f"{str(settings.separate).lower()}: contrastive tokens are {_passes(setup)}"
    if _is_masked(setup):
        drawn = "Dirichlet({:g}, {:g})".format(*settings.concentration)
        both = len(setup.model.config.shapes) > 1
        rows["hidden shares"] = f"{drawn}, coupled" if both else f"the first of {drawn}"
    if settings.generative:
        rows["decoded"] = (
            f"{100 * settings.decoded:g} % of the tokens of each modality, hidden ones first, in a step; all when "
            "measured"
        )
        rows["within_instants"] = (
            "true: a decoder with random weights at first attends within the instant"
            if settings.within_instants
            else "false"
        )
    rows["lineage"] = str(setup.lineage)
    return ReportTable(
        title="Settings", columns=("", "value"), rows=tuple(TableRow(cells=cells) for cells in rows.items())
    )


@torch.inference_mode()
def _paint(setup: VqMaePretraining) -> list[ReportFigure]:
    """Clips decoded from their codes, and from what is predicted of 80 % hidden ones; [] without tokenizers."""
    shape, device = setup.model.config, setup.ranks.device
    if setup.config.tokenizers is None or setup.model.decoder is None:
        return []
    tokenizers = load_tokenizers(setup.config.tokenizers).model.to(device)
    clips = setup.validation_clips if setup.validates else setup.data.training
    spaced = torch.linspace(0, len(clips) - 1, min(SHOWN_CLIPS, len(clips))).round().long().unique().numpy()
    shown = []
    setup.model.eval()
    alone = replace(setup, ranks=Ranks(device=device))  # only one process paints, and reads all of the clips
    for batch in alone.make_loader(clips.take(spaced)).epoch(0):
        codes = window_codes(batch.to(device), 0, shape)
        draws = ClipDraws(keys=batch.draw_keys, seed=setup.config.seed, epoch=VALIDATION_EPOCH)
        tokens = {name: each.tokens for name, each in shape.shapes.items()}
        masks = draw_fixed_masks(dict.fromkeys(tokens, _HIDDEN), tokens, draws).to(device)
        logits = setup.model(codes, *masks, shape.slots).logits
        decoded: dict[str, tuple[Tensor, Tensor]] = {}
        for name, each in shape.shapes.items():
            true = split_tubes(codes[name].long(), each.tube)
            painted = torch.where(masks.visible[name][..., None], true, logits[name].argmax(-1))
            decode = getattr(tokenizers, name).decode
            decoded[name] = tuple(
                decode(join_tubes(tokens_of, each).flatten(0, 1)).unflatten(0, (len(batch), -1)).cpu()
                for tokens_of in (true, painted)
            )
        shown += [
            DecodedClip(
                key=key,
                **{
                    field: pair[row][clip, :: _EVERY[name]]
                    for name, pair in decoded.items()
                    for row, field in enumerate(_FIELDS[name])
                },
                **{field: torch.empty(0) for name in _FIELDS.keys() - decoded.keys() for field in _FIELDS[name]},
            )
            for clip, key in enumerate(batch.keys)
        ]
    seen = "not trained on" if setup.validates else "trained on"
    title, names = f"{100 * _HIDDEN:.0f} % hidden, of clips that were {seen}", ("codes", "painted")
    draw = {AUDIO: draw_spectra, VISUAL: draw_faces}
    text = f"Clips decoded from their codes, and painted with {100 * _HIDDEN:.0f} % hidden"
    return [
        ReportFigure(name=f"{name}.png", text=f"{text}: {name}", png=draw[name](shown, title, names))
        for name in decoded
    ]


def _measures(scores: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[ReportTable, ...]:
    """What was measured after the last epoch, and of the final model; nothing without validation speakers."""
    names = [name for name in (AUDIO, VISUAL) if f"{name}_accuracy" in scores]
    accuracies = [
        (words, *(f"{100 * scores[f'{name}_{measure}']:.1f}" for name in names))
        for measure, words in _MEASURES.items()
        if names and all(f"{name}_{measure}" in scores for name in names)
    ]
    faces = []
    for measure, words in _RETRIEVALS.items():
        if measure in scores:
            found, retrieval = f"{100 * scores[measure]:.1f}", result[measure]
            if retrieval["interval"]:
                found += " ({:.1f} to {:.1f})".format(*(100 * bound for bound in retrieval["interval"]))
            others = retrieval["among"] - 1
            faces.append((words.format(others=others), found, f"{100 / retrieval['among']:.3g}"))
    tables = (
        ("hidden codes", ("right, %", *(_WORDS[name] for name in names)), accuracies),
        ("a clip's face by its sound", ("right, %", "found", "by chance"), faces),
    )
    return tuple(
        ReportTable(
            title=f"Validation speakers: {title}", columns=columns, rows=tuple(TableRow(cells=row) for row in rows)
        )
        for title, columns, rows in tables
        if rows
    )


@as_png
def draw_curves(epochs: list[dict[str, Any]]) -> Figure:
    """Losses, and accuracies of hidden codes beside those of the most frequent code of each place, by epoch."""
    figure = make_figure(3.0)
    losses, rates = figure.subplots(1, 2)
    for name, colour, title in (("train_loss", BLUE, "training"), ("validation_loss", ORANGE, "validation")):
        _plot(losses, epochs, name, 1.0, color=colour, label=title)
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend()
    for name, colour in ((AUDIO, BLUE), (VISUAL, ORANGE)):
        title = _WORDS[name]
        _plot(rates, epochs, f"{name}_accuracy", 100.0, color=colour, label=title)
        _plot(rates, epochs, f"{name}_place", 100.0, color=colour, linestyle=":", label=f"{title}, code of the place")
    for name, title, style in (("retrieval", "face by sound", "-"), ("retrieval_near", "face by sound, near", ":")):
        _plot(rates, epochs, name, 100.0, color=GREEN, linestyle=style, label=title)
    rates.set(xlabel="epoch", ylabel="right, validation speakers, %")
    if rates.lines:
        rates.legend(fontsize=6)
    return figure


def _plot(axes: Any, epochs: list[dict[str, Any]], name: str, factor: float, **style: Any) -> None:
    points = [(line["epoch"], factor * line[name]) for line in epochs if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", **style)

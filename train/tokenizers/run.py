"""One training of tokenizers, from its first step to a folder that shards of codes are made with."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from manifests.files import atomic_write, exclusive_lock, remove_leftovers
from manifests.text import pluralize
from train.checkpoint import load_trained
from train.models.tokenizer_files import save_tokenizers
from train.models.vqvae import calibrate
from train.provenance import about_of, build_of
from train.report.render import render_template
from train.run_fold import fit
from train.tokenizers.objective import measure
from train.tokenizers.page import PAGE_FILE, write_page
from train.tokenizers.setup import MODEL, RESULT_FILE, TokenizerSetup

_LICENCE = "this project's own"


@dataclass(frozen=True, kw_only=True)
class TrainedFolder:
    """Finished tokenizers."""

    model: Path
    """Folder to make tokens with."""
    page: Path
    """What a person looks at."""
    epochs: int
    scores: dict[str, float]
    """As of `measure`."""


def run_tokenizers(setup: TokenizerSetup) -> TrainedFolder:
    """Train tokenizers, or what remains of it, save them and write their page. Finished ones are only read.

    Raises ConfigError for a run with other settings, LoggerError, BusyError while another process trains it, Stopped
    after a signal to stop, DataError or StoreError, and what the Trainer raises.
    """
    if setup.is_finished():
        if setup.ranks.is_main:
            setup.checkpoints.clear()  # left behind if the run was killed just after it finished
        return _describe(setup)
    lock = exclusive_lock(setup.folder, "RUNS=") if setup.ranks.is_main else nullcontext()
    with lock, setup.data.prefetcher:
        if setup.ranks.any(setup.is_finished()):  # by another process, before this one had the lock
            return _describe(setup)
        if setup.ranks.is_main:
            remove_leftovers(setup.folder)
            setup.checkpoints.remove_partial()
        setup.write_config()
        load_trained(setup.model, setup.checkpoints.best_path(fit(setup)))
        if not setup.model.audio.fixed:
            calibrate(setup.model.audio, setup.reference.power)
        scores = measure(setup.model.eval(), setup.make_loader(setup.measured), setup.reference, setup.ranks)
        if setup.ranks.is_main:
            _save(setup, scores)
            write_page(setup, scores)
            result = {"epochs": setup.epochs, "clips": len(setup.data.training), "scores": scores}
            atomic_write(setup.folder / RESULT_FILE, (json.dumps(result, indent=1) + "\n").encode())
            setup.checkpoints.clear()
        setup.ranks.barrier()
        return _describe(setup)


def _save(setup: TokenizerSetup, scores: dict[str, float]) -> None:
    data, recipe = setup.data, setup.config.recipe
    about = about_of(data.trained_parts)
    card = render_template(
        "tokenizers.md.j2",
        corpora=data.name,
        about=about,
        recipe=recipe.name,
        epochs=setup.epochs,
        clips=len(data.training),
        measured="validation speakers" if setup.validates else "the training clips",
        scores=scores,
        sizes={"sound": len(setup.model.audio.codebook), "faces": len(setup.model.visual.codebook)},
        lineage=setup.lineage,
    )
    details = {"recipe": recipe.name, "tokenizers": asdict(setup.settings), "build": build_of(data.parts), **about}
    folder = setup.folder / MODEL
    save_tokenizers(setup.model, folder, licence=_LICENCE, lineage=setup.lineage, details=details, card=card)


def _describe(setup: TokenizerSetup) -> TrainedFolder:
    result = json.loads((setup.folder / RESULT_FILE).read_bytes())
    return TrainedFolder(
        model=setup.folder / MODEL, page=setup.folder / PAGE_FILE, epochs=result["epochs"], scores=result["scores"]
    )


def describe_tokenizers(found: TrainedFolder) -> str:
    """Finished tokenizers in a line."""
    scores = found.scores
    return (
        f"{pluralize(found.epochs, 'epoch')}, Itakura-Saito {scores['divergence']:.3f} (of the mean spectrum "
        f"{scores['mean_divergence']:.3f}), PSNR {scores['psnr']:.2f} dB (of the mean face {scores['mean_psnr']:.2f}), "
        f"perplexity {scores['audio_perplexity']:.0f} of sound and {scores['visual_perplexity']:.0f} of faces"
    )

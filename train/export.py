"""Export of a finished run as a folder to share: weights, configuration and a model card."""

from __future__ import annotations

from pathlib import Path

from manifests.files import atomic_write, partial_files
from train.fusion import strategy_named
from train.models.checkpoint_io import MODEL_CONFIG_FILE, RUN_MODEL, WEIGHTS_FILE
from train.models.classifiers import load_trained_classifier
from train.onnx import ONNX_FILE, write_onnx
from train.predict import PredictError, Predictor, load_predictor
from train.report.render import render_template
from train.runs import RunResult, read_result

MODEL_CARD_FILE = "README.md"
_EXPORTED = (WEIGHTS_FILE, MODEL_CONFIG_FILE, MODEL_CARD_FILE, ONNX_FILE)
#: Formats that can be written beside this project's own.
FORMATS = ("onnx",)


def export(
    run: Path, out: Path, *, form: str | None = None, encoder: str | None = None, strategy: str | None = None
) -> RunResult:
    """Write a finished run's classifier into a folder to share, and load that folder as a check.

    `form` is one of `FORMATS`, which is written, too. `encoder` and `strategy` are import paths of the user's own code,
    as of `load_predictor`. It is not in the export.

    Raises EvaluationError for a run that is not finished, WeightsError for a damaged one, PredictError for a folder
    with something else in it, OnnxError, OSError.
    """
    predictor, result = load_predictor(run, encoder=encoder, strategy=strategy), read_result(run)
    partial = [path for name in _EXPORTED for path in partial_files(out / name)]  # of an export that was killed
    ours = {*_EXPORTED, *(path.name for path in partial)}
    others = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    if others:
        raise PredictError(f"{out}: found {others[0]}, expected an empty folder; choose another with OUT= (--out)")
    for path in partial:
        path.unlink(missing_ok=True)
    atomic_write(out / MODEL_CARD_FILE, model_card(predictor, result).encode())
    for name in (WEIGHTS_FILE, MODEL_CONFIG_FILE):  # config.json last: it names the hash of the weights it belongs to
        atomic_write(out / name, (run / RUN_MODEL / name).read_bytes())
    if form == "onnx":
        found, protocol = predictor.classifier, result.run.protocol
        if strategy_named(result.run.strategy).tokens:
            raise PredictError(f"{run}: found a VQ-MAE-AV, expected another model with FORMAT=onnx; leave it out")
        about = {"input_range": found.model.encoder.config.input_range, "feature": protocol.feature}
        write_onnx(out / ONNX_FILE, found.model, found.classes, {**about, "strategy": result.run.strategy})
    load_trained_classifier(out, encoder)
    return result


def model_card(predictor: Predictor, result: RunResult) -> str:
    """Markdown: what the classifier is, its scores and how they were measured, how to load it, and its terms of use."""
    run = result.run
    about = {"title": run.dataset, "licence": "not stated", "citation": "No citation is stated."}
    stated = predictor.provenance.about.items()
    about |= {name: text for name, text in stated if isinstance(text, str) and text.strip()}
    return render_template(
        "model_card.md.j2",
        run=run,
        protocol=run.protocol,
        scores=result.scores,
        classes=predictor.classes,
        licence=predictor.classifier.licence,
        lineage=predictor.classifier.lineage,
        about=about,
    )

"""A finished run as a folder to hand on: weights, configuration and a model card."""

from __future__ import annotations

from pathlib import Path

from manifests.files import atomic_write
from train.models.checkpoint_io import CONFIG_FILE, WEIGHTS_FILE
from train.models.weights import load_pretrained
from train.predict import PredictError, Predictor, load_predictor
from train.runs import MODEL, Outcome, read_outcome

CARD_FILE = "README.md"
_OURS = {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE}


def export(run: Path, out: Path) -> Outcome:
    """Write a finished run's classifier into a folder of its own, and read it back; what the run reached.

    Raises EvaluationError for a run that is not finished, WeightsError for a damaged one, PredictError for a folder
    with something else in it, OSError.
    """
    outcome, predictor = read_outcome(run), load_predictor(run)
    others = sorted(path.name for path in out.iterdir() if path.name not in _OURS) if out.is_dir() else []
    if others:
        raise PredictError(f"{out}: found {others[0]}, expected an empty folder; choose another with OUT= (--out)")
    atomic_write(out / CARD_FILE, model_card(predictor, outcome).encode())
    for name in (WEIGHTS_FILE, CONFIG_FILE):  # the configuration tells the weights it belongs to, so it comes last
        atomic_write(out / name, (run / MODEL / name).read_bytes())
    load_pretrained(out)
    return outcome


def model_card(predictor: Predictor, outcome: Outcome) -> str:
    """What the classifier is, what it reached and how that was measured, how to load it, and on what terms."""
    run, result, about = outcome.run, outcome.result, predictor.provenance.about
    protocol = run.protocol
    start = protocol.weights or "random weights"
    return f"""\
# {run.strategy} on {about["title"]}, fold {run.fold}

Classifies the emotion of a talking face from 16 aligned face crops and the {protocol.feature} spectrograms of the sound
around each, fused by `{run.strategy}` (MultiMAE-DER). Encoder `{protocol.encoder}`, trained from {start} by the recipe
`{protocol.recipe}`.

Classes, in the order of the logits: {", ".join(predictor.classes)}.

## What it reached

UAR {100 * result.uar:.2f} %, WAR {100 * result.war:.2f} % on {result.clips} clips of speakers it never saw
({", ".join(result.speakers)}): fold {run.fold} of {len(protocol.folds)} ({protocol.fold_scheme}), labels
{protocol.label_scheme}, epoch {run.epoch} of {run.epochs}, chosen by {protocol.selection}.
One fold is no mean over folds.

## How to use it

    python -m train predict --run THIS_FOLDER clip.mp4
    python -m train predict --run THIS_FOLDER --shards shards/{run.dataset}

`model.safetensors` holds the weights, `config.json` the encoder, the classes, the statistics that spectrograms are
standardised by, and the settings that clips must be built with. It also starts a training (`WEIGHTS=THIS_FOLDER`).

## Terms

Weights it started from: {predictor.pretrained.licence}. Recordings: {about["licence"]}. Both bind whoever uses this
model or passes it on.

An emotion that was acted in a studio is not what a person feels. Faces and voices are personal data; do not use this
to judge people, and in the European Union not at work or in education (Regulation 2024/1689, article 5).

Please cite:

{_indented(str(about["citation"]))}
"""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

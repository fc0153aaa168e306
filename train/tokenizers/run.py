"""One training of tokenizers, from its first step to a folder that shards of codes are made with."""

from __future__ import annotations

import json
from dataclasses import replace

from manifests.text import pluralize
from train.pretraining.run import Pretrained, run_pretraining
from train.tokenizers.setup import TokenizerSetup


def run_tokenizers(setup: TokenizerSetup) -> Pretrained:
    """Train tokenizers, or what remains of it, save them and write their page. Finished ones are only read.

    The scores are those of `measure`. Raises what `run_pretraining` does.
    """
    found = run_pretraining(setup)
    scores = json.loads((setup.folder / setup.result_file).read_bytes())["scores"]
    return replace(found, scores=scores)


def describe_tokenizers(found: Pretrained) -> str:
    """Finished tokenizers in a line."""
    scores = found.scores
    return (
        f"{pluralize(found.epochs, 'epoch')}, Itakura-Saito {scores['divergence']:.3f} (of the mean spectrum "
        f"{scores['mean_divergence']:.3f}), PSNR {scores['psnr']:.2f} dB (of the mean face {scores['mean_psnr']:.2f}), "
        f"perplexity {scores['audio_perplexity']:.0f} of sound and {scores['visual_perplexity']:.0f} of faces"
    )

"""How much of a corpus the shards of a fold have: built clips of each side, and those that the corpus has there.

A corpus loses clips on the way, e.g. those without a face, and a score over the rest is not a score over all. A report
says "5,498 of 5,531 clips".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests import folds, index
from manifests.corpora import corpus_facts
from manifests.folds import SIDES, FoldError


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Clips of one side of a fold that have a class."""

    built: int
    """Clips in the shards."""
    expected: int
    """Clips of the corpus folder that the shards were built from, with those that were dropped."""
    incomplete: int
    """Built clips without a face or without sound."""
    reasons: Mapping[str, int]
    """Reason -> dropped clips, sorted."""


def fold_coverage(
    folder: Path, scheme: str, fold: str, emotions: Collection[str] | None = None
) -> Mapping[str, Coverage]:
    """Side -> built and expected clips, of the raw emotions that have a class; None for all.

    Reads the rows of all clips, but no shard. Files that the corpus folder lacked have no row: they are counted in
    `Dataset.missing`. A speaker of whom every clip was dropped counts on the side that a committed scheme has for the
    speaker; a generated one knows built speakers only. Raises FoldError, ManifestError.
    """
    dataset = index.load_dataset(folder)
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    found = folds.load_fold_file(folder / index.FOLDS / f"{scheme}.json", speakers).folds
    if fold not in found:
        raise FoldError(f"{scheme}: unknown fold {fold!r}; valid are {', '.join(found)}")
    facts, sides = corpus_facts(dataset.dataset), found[fold]
    committed = folds.load_scheme(scheme).folds[fold] if scheme in facts.fold_schemes else None
    side_of: dict[str, str] = {}
    for name in SIDES:
        side_of |= dict.fromkeys((*sides[name].subjects, *(getattr(committed, name) if committed else ())), name)
    left_out = {name: {facts.text(sentence) for sentence in sides[name].left_out_sentences} for name in SIDES}
    built, incomplete, reasons = Counter[str](), Counter[str](), {name: Counter[str]() for name in SIDES}
    for row in index.load_rows(folder):
        name = side_of.get(row.speaker, "")
        if not name or facts.text(row.sentence) in left_out[name]:
            continue
        if emotions is not None and row.emotion not in emotions:
            continue
        built[name] += row.shard is not None
        incomplete[name] += row.incomplete
        if row.reason:
            reasons[name][row.reason] += 1
    return {
        name: Coverage(
            built=built[name],
            expected=built[name] + reasons[name].total(),
            incomplete=incomplete[name],
            reasons=dict(sorted(reasons[name].items())),
        )
        for name in SIDES
    }

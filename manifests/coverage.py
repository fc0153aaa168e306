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
from manifests.folds import SIDES, FoldError, FoldFile
from manifests.index import Row


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
    folder: Path, scheme: FoldFile, fold: str, emotions: Collection[str] | None = None
) -> Mapping[str, Coverage]:
    """Side -> built and expected clips, of the raw emotions that have a class; None for all.

    Reads the rows of all clips, but no shard. Files that the corpus folder lacked have no row: they are counted in
    `Dataset.missing`. A speaker of whom every clip was dropped counts on the side that a committed scheme has for the
    speaker; a generated one knows built speakers only. Raises FoldError, ManifestError.
    """
    if fold not in scheme.folds:
        raise FoldError(f"{scheme.name}: unknown fold {fold!r}; valid are {', '.join(scheme.folds)}")
    facts, sides = corpus_facts(scheme.dataset), scheme.folds[fold]
    committed = folds.load_scheme(scheme.name).folds[fold] if scheme.name in facts.fold_schemes else None
    speakers = {name: {*sides[name].subjects, *(getattr(committed, name) if committed else ())} for name in SIDES}
    left_out = {name: {facts.text(sentence) for sentence in sides[name].left_out_sentences} for name in SIDES}

    def side_of(row: Row) -> str | None:
        """The side of a clip; of a dropped one, whose sentence nobody else may have, by the sentence's text."""
        for name in SIDES:
            listed = sides[name].clip_ids is None or sides[name].has(row)
            if row.speaker in speakers[name] and listed and facts.text(row.sentence) not in left_out[name]:
                return name
        return None

    built, incomplete, reasons = Counter[str](), Counter[str](), {name: Counter[str]() for name in SIDES}
    for row in index.load_rows(folder):
        name = side_of(row)
        if name is None:
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

"""Label schemes of several corpora at once: one for each, with the classes that all of them have. Pure.

Corpora name emotions in their own ways. Each raw emotion is first given a common name: that of its class in the
corpus's default scheme (`HAP` of CREMA-D: happy; `calm` of RAVDESS: neutral), or, without one, the name that
`labels.SPELLINGS` knows it by (`joy`: happy), or its own in lower case. The classes are the common names that every
corpus has clips of: a class of one corpus alone could be recognized by its studio. Clips of others are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from manifests import labels
from manifests.labels import LabelError, LabelScheme
from manifests.tables import is_table
from manifests.text import shorten_list

#: Name of the scheme of the classes that several corpora have in common.
COMMON = "common"
#: Fewest classes that a classifier can be trained on.
MIN_CLASSES = 2

_TABLE = "LABELS=map.csv with the columns dataset, emotion and class"
_NAMES: Mapping[str, str] = {
    spelling: name for name, spellings in labels.SPELLINGS.items() for spelling in (name, *spellings)
}


@dataclass(frozen=True, kw_only=True)
class CorpusEmotions:
    """The labels of one corpus."""

    dataset: str
    label_schemes: Sequence[str]
    """Names of its own label schemes, the default first; none for a corpus whose raw emotions are its classes."""
    emotions: Collection[str]
    """Raw emotions that it has clips of, without that of clips without a label."""


def common_schemes(corpora: Sequence[CorpusEmotions], name: str | None = None) -> dict[str, LabelScheme]:
    """Corpus -> its label scheme. All have the same classes: those of which every corpus has clips.

    Args:
        corpora: at least one, each with another name.
        name: a label scheme of one of the project's corpora, or a table of one's own, whose classes are used in place
            of the common names; `labels.NO_LABELS` for schemes without classes, which use every clip and no label.

    Raises LabelError for an unknown scheme, a corpus without labels, an emotion that the scheme of its corpus does not
    know, and fewer than two common classes; TableError.
    """
    if name == labels.NO_LABELS or not any(corpus.emotions for corpus in corpora):
        return {corpus.dataset: labels.unlabelled_scheme(corpus.dataset) for corpus in corpora}
    if unlabelled := [corpus.dataset for corpus in corpora if not corpus.emotions]:
        raise LabelError(
            f"{shorten_list(unlabelled)}: found no labels, but some of the other corpora; leave the corpus out, or "
            "choose LABELS=none where no labels are needed"
        )
    schemes = {corpus.dataset: _scheme_of(corpus, name) for corpus in corpora}
    for corpus in corpora:
        _check_known(corpus, schemes[corpus.dataset])
    having = {
        corpus.dataset: {schemes[corpus.dataset].mapping.get(emotion) for emotion in corpus.emotions}
        for corpus in corpora
    }
    first = schemes[corpora[0].dataset].classes
    classes = tuple(each for each in first if all(each in found for found in having.values()))
    if len(classes) < MIN_CLASSES:
        found = "; ".join(f"{dataset} has {shorten_list(sorted(filter(None, having[dataset])))}" for dataset in having)
        raise LabelError(
            f"found {shorten_list(classes) or 'no class'} that all corpora have, expected at least {MIN_CLASSES} "
            f"classes: {found}; say which class each emotion is in a table: {_TABLE}"
        )
    return {dataset: _restrict(scheme, classes) for dataset, scheme in schemes.items()}


def classes_by_name(corpus: CorpusEmotions, name: str, classes: Sequence[str]) -> Mapping[str, str]:
    """Raw emotion -> class, of a corpus that a classifier of several others was not trained on.

    `name` is the label scheme of the classifier, `COMMON` or that of one of the project's corpora. Emotions without one
    of its classes are left out, which may be all. Raises LabelError for an unknown scheme.
    """
    if name != COMMON:
        labels.label_scheme(name)
    with suppress(LabelError):  # no emotion has a class of the scheme
        return _restrict(_scheme_of(corpus, None if name == COMMON else name), tuple(classes)).mapping
    return {}


def _check_known(corpus: CorpusEmotions, scheme: LabelScheme) -> None:
    """Raise LabelError for emotions that the corpus's scheme neither maps nor leaves out on purpose."""
    known = scheme.mapping.keys() | scheme.left_out
    if unknown := sorted({*corpus.emotions} - known):
        raise LabelError(
            f"label scheme {scheme.name}: found {shorten_list(map(repr, unknown))} in {corpus.dataset}, expected only "
            f"{', '.join(sorted(known))}; say which class each emotion is in a table: {_TABLE}"
        )


def _scheme_of(corpus: CorpusEmotions, name: str | None) -> LabelScheme:
    """The scheme of one corpus, with all classes that it has."""
    if name is not None and is_table(name):
        return labels.read_label_table(Path(name), corpus.dataset, corpus.emotions)
    default = labels.label_scheme(corpus.label_schemes[0]) if corpus.label_schemes else None
    if name is None:
        if default is None:
            named = {emotion: _common_name(emotion) for emotion in sorted(corpus.emotions)}
            return LabelScheme(
                name=COMMON, dataset=corpus.dataset, classes=tuple(sorted({*named.values()})), mapping=named
            )
        return LabelScheme(**{**vars(default), "name": COMMON, "dataset": corpus.dataset})
    chosen = labels.label_scheme(name)
    if chosen.dataset == corpus.dataset:
        return chosen
    known = {raw.lower(): named for raw, named in chosen.mapping.items()}
    known |= {_common_name(named): named for named in chosen.classes} | {named: named for named in chosen.classes}
    usual = default.mapping if default else {emotion: _common_name(emotion) for emotion in corpus.emotions}
    found = {
        emotion: known.get(named) or known.get(emotion.strip().lower(), "") for emotion, named in sorted(usual.items())
    }
    mapping = {emotion: named for emotion, named in found.items() if named}
    left_out = frozenset(found.keys() - mapping.keys()) | (default.left_out if default else frozenset())
    if not mapping:
        raise LabelError(
            f"label scheme {name}: has no class for {shorten_list(sorted(corpus.emotions))} of {corpus.dataset}; its "
            f"classes are {', '.join(chosen.classes)}; say which class each emotion is in a table: {_TABLE}"
        )
    classes = tuple(each for each in chosen.classes if each in mapping.values())
    return LabelScheme(name=name, dataset=corpus.dataset, classes=classes, mapping=mapping, left_out=left_out)


def _common_name(emotion: str) -> str:
    plain = emotion.strip().lower()
    return _NAMES.get(plain, plain)


def _restrict(scheme: LabelScheme, classes: tuple[str, ...]) -> LabelScheme:
    """The same with some of the classes; emotions of the others are left out."""
    mapping = {emotion: name for emotion, name in scheme.mapping.items() if name in classes}
    left_out = scheme.left_out | (scheme.mapping.keys() - mapping.keys())
    return LabelScheme(name=scheme.name, dataset=scheme.dataset, classes=classes, mapping=mapping, left_out=left_out)

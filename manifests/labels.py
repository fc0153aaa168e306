"""Label schemes: raw emotion of a corpus -> class index.

Shards store the corpus's own label; a scheme maps it when training, so one build serves every scheme.
A raw emotion that a scheme gives no class is outside of it: such clips are left out, never guessed. Those left out on
purpose are named, so that a label nobody thought of is found. The schemes themselves are in `manifests.corpora`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manifests.corpora import CORPORA, LabelError, LabelScheme, corpus_facts

__all__ = ["LABEL_SCHEMES", "LabelError", "LabelScheme", "identity_scheme", "label_scheme", "schemes_for"]

LABEL_SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme for facts in CORPORA.values() for scheme in facts.label_schemes
}


def label_scheme(name: str) -> LabelScheme:
    """Scheme of that name. Raises LabelError, listing the valid ones, where there is none."""
    if name not in LABEL_SCHEMES:
        raise LabelError(f"unknown label scheme {name!r}; valid are {', '.join(LABEL_SCHEMES)}")
    return LABEL_SCHEMES[name]


def schemes_for(dataset: str) -> tuple[str, ...]:
    """Names of a corpus's label schemes, the default first; empty where each raw emotion is a class."""
    return tuple(scheme.name for scheme in corpus_facts(dataset).label_schemes)


def identity_scheme(dataset: str, emotions: Iterable[str]) -> LabelScheme:
    """Every raw emotion is its own class, in sorted order: for corpora that no scheme was written for."""
    classes = tuple(sorted(set(emotions)))
    if not classes:
        raise LabelError(f"{dataset}: found no emotions to make a label scheme of")
    return LabelScheme(name=f"{dataset}-raw", dataset=dataset, classes=classes, mapping={c: c for c in classes})

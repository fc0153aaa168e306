"""Label schemes: raw emotion of a corpus -> class index.

Shards store the corpus's raw label; a scheme maps it at training time, so one build works with every scheme.
Clips with a raw emotion that a scheme does not map are left out. Raw emotions that are deliberately left
out are listed, so that unexpected labels are detected. The schemes are defined in `manifests.corpora`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manifests.corpora import CORPORA, LabelError, LabelScheme, corpus_facts

__all__ = ["LABEL_SCHEMES", "LabelError", "LabelScheme", "identity_scheme", "label_scheme", "label_schemes_for"]

LABEL_SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme for facts in CORPORA.values() for scheme in facts.label_schemes
}


def label_scheme(name: str) -> LabelScheme:
    """Look up a scheme by name. Raises LabelError, listing the valid names, for an unknown one."""
    if name not in LABEL_SCHEMES:
        raise LabelError(f"unknown label scheme {name!r}; valid are {', '.join(LABEL_SCHEMES)}")
    return LABEL_SCHEMES[name]


def label_schemes_for(dataset: str) -> tuple[str, ...]:
    """Names of a corpus's label schemes, the default first; empty if each raw emotion is a class."""
    return tuple(scheme.name for scheme in corpus_facts(dataset).label_schemes)


def identity_scheme(dataset: str, emotions: Iterable[str]) -> LabelScheme:
    """Every raw emotion is a class, in sorted order: for corpora without a scheme."""
    classes = tuple(sorted(set(emotions)))
    if not classes:
        raise LabelError(f"{dataset}: found no emotions to make a label scheme of")
    return LabelScheme(name=f"{dataset}-raw", dataset=dataset, classes=classes, mapping={c: c for c in classes})

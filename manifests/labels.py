"""Label schemes: raw emotion of a corpus -> class index.

Shards store the corpus's raw label; a scheme maps it at training time, so one build works with every scheme.
Clips with a raw emotion that a scheme does not map are left out. Raw emotions that are deliberately left
out are listed, so that unexpected labels are detected. The project's schemes are defined in `manifests.corpora`; one's
own is a table with the columns `emotion` and `class`, where an empty class leaves an emotion out, and, for several
corpora, `dataset`: the corpus that a line is about, or nothing for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from manifests.corpora import CORPORA, LabelError, LabelScheme, corpus_facts
from manifests.tables import read_scheme_table
from manifests.text import shorten_list

__all__ = [
    "LABEL_SCHEMES",
    "NO_LABELS",
    "LabelError",
    "LabelScheme",
    "adapt_scheme",
    "identity_scheme",
    "label_scheme",
    "label_schemes_for",
    "read_label_table",
    "unlabelled_scheme",
]

LABEL_SCHEMES: Mapping[str, LabelScheme] = {
    scheme.name: scheme for facts in CORPORA.values() for scheme in facts.label_schemes
}

#: Name of the scheme without classes.
NO_LABELS = "none"
#: What tables call the columns.
COLUMN_NAMES = {
    "dataset": ("dataset", "corpus"),
    "emotion": ("emotion", "raw", "label"),
    "class": ("class", "category"),
}
#: Common spellings of what the project's schemes call an emotion, in lower case.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "angry": ("anger", "ang"),
    "calm": ("calmness",),
    "disgust": ("disgusted", "dis"),
    "fearful": ("fear", "afraid", "fea"),
    "happy": ("happiness", "hap", "joy", "joyful"),
    "neutral": ("neutrality", "neu"),
    "sad": ("sadness",),
    "surprised": ("surprise", "sur"),
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


def unlabelled_scheme(dataset: str) -> LabelScheme:
    """The scheme without classes: for shards without labels, and for readers that use every clip and no label."""
    return LabelScheme(name=NO_LABELS, dataset=dataset, classes=(), mapping={})


def read_label_table(path: Path, dataset: str, emotions: Iterable[str]) -> LabelScheme:
    """The scheme of a table, for the raw emotions of a corpus; classes are in the order of the table.

    Lines about another `dataset` are skipped; a line about this one counts before a line about all.

    Raises TableError for a file that is not a table, LabelError for one with an emotion twice or without one of
    `emotions`; OSError.
    """
    table = read_scheme_table(path, COLUMN_NAMES)
    if not {"emotion", "class"} <= table.columns:
        found = ", ".join(sorted(table.columns - {"dataset"})) or "neither"
        raise LabelError(f"{path}:1: found of the columns emotion and class {found}; expected both")
    classes_of: dict[str, dict[str, str]] = {"": {}, dataset: {}}  # lines about all corpora, and about this one
    for number, line in table.lines:
        emotion, name, about = line["emotion"], line["class"], line.get("dataset", "")
        if about not in classes_of:
            continue
        if emotion in classes_of[about]:
            raise LabelError(f"{path}:{number}: found emotion {emotion[:80]!r} a second time, expected it once")
        if not name.isprintable():
            raise LabelError(f"{path}:{number}: found class {name[:80]!r}, expected printable characters only")
        classes_of[about][emotion] = name
    chosen = classes_of[""] | classes_of[dataset]
    mapping = {emotion: name for emotion, name in chosen.items() if name}
    left_out = chosen.keys() - mapping.keys()
    if not mapping:
        raise LabelError(f"{path}: found no class, expected at least one emotion with a class")
    if unknown := sorted({*emotions} - mapping.keys() - left_out):
        raise LabelError(
            f"{path}: found no line for {shorten_list(unknown)}, expected one for each emotion of {dataset}; an empty "
            "class leaves an emotion out"
        )
    classes = tuple(dict.fromkeys(mapping.values()))
    return LabelScheme(name=table.name, dataset=dataset, classes=classes, mapping=mapping, left_out=frozenset(left_out))


def adapt_scheme(scheme: LabelScheme, dataset: str, emotions: Iterable[str]) -> LabelScheme:
    """A scheme of another corpus, for a corpus that calls emotions as this one does, or by a common spelling.

    Raises LabelError, naming the emotions for which it has no class.
    """
    known = {raw.lower(): name for raw, name in scheme.mapping.items()}
    for name in scheme.classes:
        known |= dict.fromkeys((name, *SPELLINGS.get(name, ())), name)
    found = {emotion: known.get(emotion.strip().lower()) for emotion in sorted({*emotions})}
    if lacking := [emotion for emotion, name in found.items() if name is None]:
        raise LabelError(
            f"label scheme {scheme.name}: has no class for {shorten_list(lacking)} of {dataset}; its classes are "
            f"{', '.join(scheme.classes)}; say which class each emotion is in a table: LABELS=map.csv with the columns "
            "emotion and class"
        )
    own = {emotion: name for emotion, name in found.items() if name is not None}
    names = {name: name for name in scheme.classes}  # also of classes that the corpus has no clips of
    return LabelScheme(name=scheme.name, dataset=dataset, classes=scheme.classes, mapping={**names, **own})

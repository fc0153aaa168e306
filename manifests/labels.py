"""Label schemes: raw emotion of a corpus -> class index.

Shards store the corpus's own label; a scheme maps it when training, so one build serves every scheme.
A raw emotion that a scheme gives no class is outside of it: such clips are left out, never guessed. Those left out on
purpose are named, so that a label nobody thought of is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from manifests.errors import UserError


class LabelError(UserError):
    """An unknown or inconsistent label scheme; one line that says what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """How the raw emotions of one corpus become classes 0..n-1."""

    name: str
    dataset: str
    """Corpus the raw emotions belong to."""
    classes: tuple[str, ...]
    """Class names; the position is the class index."""
    mapping: Mapping[str, str]
    """Raw emotion -> class name."""
    left_out: frozenset[str] = frozenset()
    """Raw emotions of the corpus that are left out on purpose; any other that has no class is unexpected."""

    def __post_init__(self) -> None:
        used = set(self.mapping.values())
        if len(set(self.classes)) != len(self.classes) or used != set(self.classes):
            raise LabelError(
                f"label scheme {self.name}: found classes {list(self.classes)} for {sorted(used)}; "
                "expected distinct classes, each reached by a raw emotion"
            )
        if both := self.left_out & self.mapping.keys():
            raise LabelError(f"label scheme {self.name}: found {sorted(both)} mapped and left out; expected either")

    def class_index(self, raw: str) -> int | None:
        """Class of a raw emotion, or None where it is outside the scheme and the clip is not used."""
        name = self.mapping.get(raw)
        return None if name is None else self.classes.index(name)


_RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

#: RAVDESS in the order of its codes 01..08, CREMA-D in that of its codes' alphabet, as MAE-DFER and HiCMAE
#: number them; IEMOCAP in the order of the MultiMAE-DER paper (IV.A). A corpus's default comes first.
_SCHEMES = (
    LabelScheme(
        name="ravdess-7",
        dataset="ravdess",
        classes=tuple(name for name in _RAVDESS if name != "calm"),
        mapping={name: name for name in _RAVDESS} | {"calm": "neutral"},
    ),
    LabelScheme(
        name="ravdess-8",
        dataset="ravdess",
        classes=_RAVDESS,
        mapping={name: name for name in _RAVDESS},
    ),
    LabelScheme(
        name="crema-d-6",
        dataset="crema-d",
        classes=("angry", "disgust", "fearful", "happy", "neutral", "sad"),
        mapping={
            "ANG": "angry",
            "DIS": "disgust",
            "FEA": "fearful",
            "HAP": "happy",
            "NEU": "neutral",
            "SAD": "sad",
        },
    ),
    LabelScheme(
        name="iemocap-4",
        dataset="iemocap",
        classes=("angry", "happy", "sad", "neutral"),
        mapping={"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"},
        left_out=frozenset({"fru", "sur", "fea", "dis"}),
    ),
    LabelScheme(
        name="demo-4",
        dataset="demo",
        classes=("happy", "angry", "calm", "sad"),
        mapping={name: name for name in ("happy", "angry", "calm", "sad")},
    ),
)

LABEL_SCHEMES: Mapping[str, LabelScheme] = {scheme.name: scheme for scheme in _SCHEMES}


def label_scheme(name: str) -> LabelScheme:
    """Scheme of that name. Raises LabelError, listing the valid ones, where there is none."""
    if name not in LABEL_SCHEMES:
        raise LabelError(f"unknown label scheme {name!r}; valid are {', '.join(LABEL_SCHEMES)}")
    return LABEL_SCHEMES[name]


def schemes_for(dataset: str) -> tuple[str, ...]:
    """Names of a corpus's label schemes, the default first; empty where labels are whatever the corpus says."""
    return tuple(scheme.name for scheme in LABEL_SCHEMES.values() if scheme.dataset == dataset)


def identity_scheme(dataset: str, emotions: Iterable[str]) -> LabelScheme:
    """Every raw emotion is its own class, in sorted order: for corpora that no scheme was written for."""
    classes = tuple(sorted(set(emotions)))
    if not classes:
        raise LabelError(f"{dataset}: found no emotions to make a label scheme of")
    return LabelScheme(name=f"{dataset}-raw", dataset=dataset, classes=classes, mapping={c: c for c in classes})

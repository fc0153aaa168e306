"""Metadata of each corpus: licence, label schemes, fold schemes, and speakers who were recorded together.

The builder's corpus modules refer to these entries, and readers of shards look them up by the
corpus's name. A corpus without an entry has the defaults: raw labels as classes, folds generated from its
speakers, one speaker per recording.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from manifests.errors import UserError


class LabelError(UserError):
    """An unknown or inconsistent label scheme; one line with what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Licence of a corpus's recordings, which applies to the shards built from them."""

    text: str
    """Text in `dataset.json`."""
    redistributable: bool
    """If False, shards may only be shared with recipients who have the licence, too."""
    spdx_id: str | None = None
    """SPDX identifier, if it has one."""
    hub_id: str | None = None
    """Identifier on the Hugging Face Hub, if it has one."""
    url: str | None = None
    conditions: str | None = None
    """Conditions for redistribution."""


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """Maps the raw emotions of one corpus to classes 0..n-1."""

    name: str
    dataset: str
    """Corpus the raw emotions belong to."""
    classes: tuple[str, ...]
    """Class names; the position is the class index."""
    mapping: Mapping[str, str]
    """Raw emotion -> class name."""
    left_out: frozenset[str] = frozenset()
    """Raw emotions that are deliberately left out; any other without a class is unexpected."""

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
        """Class of a raw emotion; None if it is not in the scheme, and the clip is not used."""
        name = self.mapping.get(raw)
        return None if name is None else self.classes.index(name)


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """Metadata that readers of a corpus's shards need; all fields have defaults."""

    licence: Licence | None = None
    label_schemes: tuple[LabelScheme, ...] = ()
    """The default first; if empty, each raw emotion is a class."""
    fold_schemes: tuple[str, ...] = ()
    """Committed schemes, `manifests/folds/<name>.json`, the default first; a generated one is always added."""
    generated_folds: tuple[str, ...] = ()
    """Generated schemes, of `manifests.folds.GENERATED`, that come after these and before the one for every corpus."""
    speaker_group: re.Pattern[str] | None = None
    """Matches the part of a speaker id that speakers recorded together share."""
    shared_text: re.Pattern[str] | None = None
    """Found in sentences that several speakers read from one text; sentences of the same text have the same match."""

    def recording_group(self, speaker: str) -> str:
        """Recording group of a speaker; generated folds keep all speakers of a group on one side."""
        found = self.speaker_group.match(speaker) if self.speaker_group else None
        return found[0] if found else speaker

    def text(self, sentence: str | None) -> str | None:
        """The text that a sentence is read from, if others read it, too: `script01` of IEMOCAP's scripted dialogues."""
        found = self.shared_text.search(sentence) if self.shared_text and sentence else None
        return found[0] if found else None


CC_BY_NC_SA_4 = Licence(
    text="CC BY-NC-SA 4.0",
    redistributable=True,
    spdx_id="CC-BY-NC-SA-4.0",
    hub_id="cc-by-nc-sa-4.0",
    url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    conditions="name the source, nothing commercial, pass on under the same licence only",
)
ODBL_1 = Licence(
    text="ODbL 1.0, contents DbCL 1.0",
    redistributable=True,
    spdx_id="ODbL-1.0",
    hub_id="odbl",
    url="https://opendatacommons.org/licenses/odbl/1-0/",
    conditions="name the source, pass on what is derived under the same licence, keep it open",
)

#: `DATASET` of corpora of one's own, and the name of those that were built before they had names.
OWN = "folder"

_RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_CREMA_D = ("angry", "disgust", "fearful", "happy", "neutral", "sad")
#: Raw emotion of MEAD -> its name in the other schemes.
_MEAD = {
    "angry": "angry",
    "contempt": "contempt",
    "disgusted": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprised",
}
_DEMO = ("happy", "angry", "calm", "sad")

#: Classes are in the order of RAVDESS's codes 01..08 and of CREMA-D's codes in the alphabet, as MAE-DFER and HiCMAE
#: number them; IEMOCAP's in the order of the MultiMAE-DER paper (IV.A), MEAD's in that of its folders.
CORPORA: Mapping[str, CorpusFacts] = {
    "ravdess": CorpusFacts(
        licence=CC_BY_NC_SA_4,
        label_schemes=(
            LabelScheme(
                name="ravdess-7",
                dataset="ravdess",
                classes=tuple(name for name in _RAVDESS if name != "calm"),
                mapping={name: "neutral" if name == "calm" else name for name in _RAVDESS},
            ),
            LabelScheme(name="ravdess-8", dataset="ravdess", classes=_RAVDESS, mapping={n: n for n in _RAVDESS}),
        ),
        fold_schemes=("ravdess-6fold", "ravdess-emobox", "ravdess-5fold"),
    ),
    "crema-d": CorpusFacts(
        licence=ODBL_1,
        label_schemes=(
            LabelScheme(
                name="crema-d-6",
                dataset="crema-d",
                classes=_CREMA_D,
                mapping=dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), _CREMA_D, strict=True)),
            ),
        ),
        fold_schemes=("crema-d-5fold", "crema-d-10fold", "crema-d-tfds"),
    ),
    "iemocap": CorpusFacts(
        licence=Licence(
            text="IEMOCAP licence of the University of Southern California, by signature; no redistribution",
            redistributable=False,
        ),
        label_schemes=(
            LabelScheme(
                name="iemocap-4",
                dataset="iemocap",
                classes=("angry", "happy", "sad", "neutral"),
                mapping={"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"},
                left_out=frozenset({"fru", "sur", "fea", "dis"}),
            ),
        ),
        fold_schemes=("iemocap-5fold", "iemocap-improvised", "iemocap-script-disjoint"),
        speaker_group=re.compile(r"Ses\d\d"),  # the two actors of a session
        shared_text=re.compile(r"script\d\d"),  # three scripts, played in every session
    ),
    "mead": CorpusFacts(
        licence=Licence(text="MEAD's own terms: research only, nothing commercial", redistributable=False),
        label_schemes=(LabelScheme(name="mead-8", dataset="mead", classes=tuple(_MEAD.values()), mapping=_MEAD),),
        generated_folds=("speakers-5fold",),
    ),
    "voxceleb2": CorpusFacts(
        licence=Licence(
            text="VoxCeleb's own terms: research only; faces and voices of people who were not asked, personal data",
            redistributable=False,
        ),
        fold_schemes=("voxceleb2-dev-test",),
    ),
    "demo": CorpusFacts(
        licence=Licence(
            text="portrait of Eileen Collins: NASA, public domain (from scikit-image); "
            "everything else: this project's licence",
            redistributable=True,
        ),
        label_schemes=(LabelScheme(name="demo-4", dataset="demo", classes=_DEMO, mapping={n: n for n in _DEMO}),),
    ),
    OWN: CorpusFacts(
        licence=Licence(
            text="whatever their owner says; shards hold faces and voices, which are personal data",
            redistributable=False,
        )
    ),
}


def corpus_facts(name: str) -> CorpusFacts:
    """Metadata of a corpus; the defaults for one without an entry."""
    return CORPORA.get(name, CorpusFacts())


def dataset_setting(name: str) -> str:
    """`DATASET` that a corpus is built with: its name, or `OWN` for one of one's own, which has no entry."""
    return name if name in CORPORA else OWN

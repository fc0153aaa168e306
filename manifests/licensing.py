"""Terms of redistribution of shards, from their index; redistribution is forbidden unless the index allows it."""

from __future__ import annotations

import re

from manifests.corpora import CORPORA, Licence
from manifests.index import Dataset
from manifests.text import one_line

PERSONAL_DATA = (
    "Face crops and voices are personal data: use them for what the people shown agreed to, and do not try to "
    "identify anyone."
)
_KNOWN = {facts.licence.text: facts.licence for facts in CORPORA.values() if facts.licence and facts.licence.url}


def about(dataset: Dataset, key: str) -> str:
    """`title`, `licence`, `homepage` or `citation` of the recordings, on one line; `""` if the index has none."""
    value = dataset.about.get(key)
    return one_line(value) if isinstance(value, str) else ""


def known_licence(dataset: Dataset) -> Licence | None:
    """The recordings' licence if it is a published one, looked up by its text, because corpus names are untrusted."""
    return _KNOWN.get(about(dataset, "licence"))


def redistributable(dataset: Dataset) -> bool:
    """Whether the index allows redistribution of the shards."""
    return dataset.about.get("redistributable") is True


def affirmation(dataset: Dataset) -> str:
    """Words with which a user affirms that a recipient may have shards that are not redistributable."""
    corpus = re.match(r"([A-Za-z0-9 -]{1,40}):", about(dataset, "title"))
    return (
        f"the receiver holds the {corpus[1]} licence" if corpus else "the receiver holds the licence of the recordings"
    )

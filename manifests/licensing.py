"""On what terms shards may be passed on, as far as the index says; what it leaves out is not allowed."""

from __future__ import annotations

import re

from manifests.corpora import CORPORA, Licence
from manifests.index import Dataset
from manifests.text import escape_unprintable

PERSONAL_DATA = (
    "Face crops and voices are personal data: use them for what the people shown agreed to, and do not try to "
    "identify anyone."
)


_KNOWN = {facts.licence.text: facts.licence for facts in CORPORA.values() if facts.licence and facts.licence.url}


def about(dataset: Dataset, key: str) -> str:
    """What the index says of the recordings in one line: `title`, `licence`, `homepage` or `citation`; may be `""`."""
    value = dataset.about.get(key)
    return one_line(value) if isinstance(value, str) else ""


def one_line(text: str) -> str:
    """Text from a file, so that it does nothing to whatever shows it but be read."""
    return escape_unprintable(" ".join(text.split()))


def known_licence(dataset: Dataset) -> Licence | None:
    """The recordings' licence, where it is a published one: looked up by its text, since anyone may name a corpus."""
    return _KNOWN.get(about(dataset, "licence"))


def redistributable(dataset: Dataset) -> bool:
    """Whether the index says that the shards may be passed on."""
    return dataset.about.get("redistributable") is True


def affirmation(dataset: Dataset) -> str:
    """What must be said, in these words, to pass on what is not redistributable."""
    named = re.match(r"([A-Za-z0-9 -]{1,40}):", about(dataset, "title"))
    return f"the receiver holds the {named[1]} licence" if named else "the receiver holds the licence of the recordings"

"""On what terms shards may be passed on, as far as the index says; what it leaves out is not allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from manifests.index import Dataset
from manifests.text import escape_unprintable

PERSONAL_DATA = (
    "Face crops and voices are personal data: use them for what the people shown agreed to, and do not try to "
    "identify anyone."
)


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence with a name that others know."""

    words: str
    """How the index begins when it means this one."""
    hub_id: str
    """As the Hugging Face hub lists it."""
    url: str
    asks: str
    """What it asks of whoever passes data on."""


_KNOWN = (
    Licence(
        words="CC BY-NC-SA 4.0",
        hub_id="cc-by-nc-sa-4.0",
        url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
        asks="name the source, nothing commercial, pass on under the same licence only",
    ),
    Licence(
        words="ODbL 1.0",
        hub_id="odbl",
        url="https://opendatacommons.org/licenses/odbl/1-0/",
        asks="name the source, pass on what is derived under the same licence, keep it open",
    ),
)


def about(dataset: Dataset, key: str) -> str:
    """What the index says of the recordings in one line: `title`, `licence`, `homepage` or `citation`; may be `""`."""
    value = dataset.about.get(key)
    return one_line(value) if isinstance(value, str) else ""


def one_line(text: str) -> str:
    """Text from a file, so that it does nothing to whatever shows it but be read."""
    return escape_unprintable(" ".join(text.split()))


def known_licence(dataset: Dataset) -> Licence | None:
    """The recordings' licence, where it is one that others know by name."""
    return next((known for known in _KNOWN if about(dataset, "licence").startswith(known.words)), None)


def redistributable(dataset: Dataset) -> bool:
    """Whether the index says that the shards may be passed on."""
    return dataset.about.get("redistributable") is True


def affirmation(dataset: Dataset) -> str:
    """What must be said, in these words, to pass on what is not redistributable."""
    named = re.match(r"([A-Za-z0-9 -]{1,40}):", about(dataset, "title"))
    return f"the receiver holds the {named[1]} licence" if named else "the receiver holds the licence of the recordings"

"""Names where several corpora are used together: `crema-d+ravdess`, their speaker `crema-d/1001`. Pure.

Names of corpora, speakers and clips have neither `+` nor `/`, so that a name says by itself what it is.
"""

from __future__ import annotations

from collections.abc import Iterable

_BETWEEN, _AFTER = "+", "/"


def join_names(corpora: Iterable[str]) -> str:
    """Name of several corpora together, whatever their order; of a single one its own."""
    return _BETWEEN.join(sorted(corpora))


def split_names(joined: str) -> tuple[str, ...]:
    """Corpora of a name that `join_names` made."""
    return tuple(joined.split(_BETWEEN))


def qualify(corpus: str, name: str) -> str:
    """A speaker, a clip or an emotion of one of several corpora."""
    return f"{corpus}{_AFTER}{name}"


def clip_of(speaker: str, clip: str) -> str:
    """A clip of a speaker, named with the corpus where the speaker is: `crema-d/1001_DFA_ANG_XX`."""
    corpus = corpus_of(speaker)
    return qualify(corpus, clip) if corpus else clip


def corpus_of(qualified: str) -> str:
    """Corpus of a name that `qualify` made; "" for one of a single corpus."""
    corpus, found, _ = qualified.partition(_AFTER)
    return corpus if found else ""


def name_within(qualified: str) -> str:
    """The name within its corpus."""
    corpus = corpus_of(qualified)
    return qualified[len(corpus) + len(_AFTER) :] if corpus else qualified

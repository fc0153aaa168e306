"""The corpora that can be built. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builder.datasets import crema_d, demo, folder, iemocap, ravdess
from builder.datasets.base import Corpus, CorpusError, NotHereError, Scan
from builder.datasets.checks import chosen_options, refuse_pointers, refuse_twins
from manifests.text import pluralize

DATASETS: Mapping[str, Corpus] = {
    "ravdess": ravdess.CORPUS,
    "crema-d": crema_d.CORPUS,
    "iemocap": iemocap.CORPUS,
    "folder": folder.CORPUS,
    "demo": demo.CORPUS,
}


def corpus_named(name: str) -> Corpus:
    """Corpus of that name. Raises CorpusError, listing the valid ones, where there is none."""
    if name not in DATASETS:
        raise CorpusError(f"unknown corpus {name!r}; valid are {', '.join(DATASETS)}")
    return DATASETS[name]


def scan_corpus(name: str, root: Path, options: Mapping[str, str] | None = None) -> Scan:
    """Scan a corpus folder (or its parent) and refuse what cannot be built. Reads no media.

    Paths in the result lie below `root.absolute()`. Raises CorpusError for an unknown corpus, option or
    value, a folder that is not the corpus, git-lfs pointers, and clips whose ids clash.
    """
    corpus = corpus_named(name)
    chosen = chosen_options(corpus, options or {})
    try:
        if not root.is_dir():
            raise NotHereError("no such folder")
        scan = corpus.scan(root.absolute(), chosen)
        if not scan.sources:
            raise NotHereError(f"found no clip to build; {_what_is_absent(scan)}")
    except NotHereError as error:
        raise CorpusError(f"{root}: {error}; {_how_to_have(corpus)}") from error
    refuse_pointers(scan.sources)
    refuse_twins(scan.sources)
    return replace(
        scan,
        sources=tuple(sorted(scan.sources, key=lambda source: (source.clip.speaker, source.clip.clip_id))),
        missing=tuple(sorted(scan.missing)),
        ignored=tuple(sorted(scan.ignored)),
    )


def _how_to_have(corpus: Corpus) -> str:
    """What to do where a corpus is not in the folder."""
    if not corpus.homepage:  # one's own, or made here
        return "DATA= names the corpus's folder"
    answer = "fetches" if corpus.home else "says how to have"
    return f"make corpus DATASET={corpus.name} {answer} the corpus, DATA= names its folder"


def _what_is_absent(scan: Scan) -> str:
    if scan.missing:
        return f"{pluralize(len(scan.missing), 'file')} absent, the first is {min(scan.missing)}"
    return f"{pluralize(len(scan.ignored), 'file')} not taken" if scan.ignored else "the folder holds none of its files"

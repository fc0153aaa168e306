"""The corpora that can be built. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builder.datasets import crema_d, demo, folder, iemocap, ravdess
from builder.datasets.base import Corpus, CorpusError, NotHereError, Scan
from builder.datasets.checks import check_unique_ids, chosen_options, refuse_pointers
from manifests.text import pluralize

DATASETS: Mapping[str, Corpus] = {
    "ravdess": ravdess.CORPUS,
    "crema-d": crema_d.CORPUS,
    "iemocap": iemocap.CORPUS,
    "folder": folder.CORPUS,
    "demo": demo.CORPUS,
}
DEFAULT = "demo"


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
            found = f"{pluralize(len(scan.ignored), 'file')} not used" if scan.ignored else "none of its files is here"
            if scan.missing:
                found = f"{pluralize(len(scan.missing), 'file')} absent, the first is {min(scan.missing)}"
            raise NotHereError(f"found no clip to build; {found}")
    except NotHereError as error:
        advice = "DATA= names the corpus's folder"
        if corpus.homepage:  # not one's own recordings, nor made here
            verb = "downloads" if corpus.remote else "says how to obtain"
            advice = f"make corpus DATASET={corpus.name} {verb} the corpus, DATA= names its folder"
        raise CorpusError(f"{root}: {error}; {advice}") from error
    refuse_pointers(scan.sources)
    check_unique_ids(scan.sources)
    return replace(
        scan,
        sources=tuple(sorted(scan.sources, key=lambda source: (source.clip.speaker, source.clip.clip_id))),
        missing=tuple(sorted(scan.missing)),
        ignored=tuple(sorted(scan.ignored)),
    )

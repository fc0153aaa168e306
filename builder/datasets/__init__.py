"""The corpora that can be built. A new one is one file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builder.datasets import crema_d, demo, folder, iemocap, ravdess
from builder.datasets.base import Corpus, CorpusError, Scan
from builder.datasets.checks import chosen_options, refuse_pointers, refuse_twins

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
    root = Path(root).absolute()
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder; expected the folder of {corpus.title}")
    scan = corpus.scan(root, chosen)
    if not scan.sources:
        raise CorpusError(f"{root}: found no clip to build; {_what_is_absent(scan)}")
    refuse_pointers(scan.sources)
    refuse_twins(scan.sources)
    return replace(
        scan,
        sources=tuple(sorted(scan.sources, key=lambda source: (source.clip.speaker, source.clip.clip_id))),
        missing=tuple(sorted(scan.missing)),
        ignored=tuple(sorted(scan.ignored)),
    )


def _what_is_absent(scan: Scan) -> str:
    if scan.missing:
        return f"{len(scan.missing)} files are absent, the first is {min(scan.missing)}"
    return f"{len(scan.ignored)} files were not taken" if scan.ignored else "the folder holds none of its files"

"""The corpora that can be built. A new corpus is one module and one entry in DATASETS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builder.datasets import crema_d, demo, folder, iemocap, mead, ravdess, voxceleb2
from builder.datasets.base import Corpus, CorpusError, CorpusNotFoundError, Scan
from builder.datasets.checks import check_unique_ids, refuse_pointers, resolve_options
from manifests.text import pluralize

DATASETS: Mapping[str, Corpus] = {
    "ravdess": ravdess.CORPUS,
    "crema-d": crema_d.CORPUS,
    "iemocap": iemocap.CORPUS,
    "mead": mead.CORPUS,
    "voxceleb2": voxceleb2.CORPUS,
    "folder": folder.CORPUS,
    "demo": demo.CORPUS,
}
DEFAULT = "demo"


def get_corpus(name: str) -> Corpus:
    """Look up a corpus by name. Raises CorpusError, listing the valid names, for an unknown one."""
    if name not in DATASETS:
        own = "to build one of your own, set DATASET=folder and its folder with DATA="
        raise CorpusError(f"unknown corpus {name!r}; valid are {', '.join(DATASETS)}; {own}")
    return DATASETS[name]


def scan_corpus(name: str, root: Path, options: Mapping[str, str] | None = None) -> Scan:
    """Scan a corpus folder (or its parent) for clips. Reads no media.

    Paths in the result are below `root.absolute()`. Raises CorpusError for an unknown corpus, option or
    value, a folder that is not the corpus, git-lfs pointers, and duplicate clip ids.
    """
    corpus = get_corpus(name)
    chosen = resolve_options(corpus, options or {})
    try:
        if not root.is_dir():
            raise CorpusNotFoundError("no such folder")
        scan = corpus.scan(root.absolute(), chosen)
        if not scan.sources:
            found = f"{pluralize(len(scan.ignored), 'file')} ignored" if scan.ignored else "no file of the corpus"
            if scan.missing:
                found = f"{pluralize(len(scan.missing), 'file')} missing, the first is {min(scan.missing)}"
                near = [name for name, _ in scan.ignored if name.casefold() == min(scan.missing).casefold()]
                found += f", but found {near[0]}, which differs only in case" if near else ""
            raise CorpusNotFoundError(f"found no clip to build; {found}")
    except CorpusNotFoundError as error:
        advice = "set the corpus folder with DATA="
        if corpus.homepage:  # neither the user's own recordings nor generated
            verb = "downloads" if corpus.remote else "explains how to obtain"
            advice = f"make corpus DATASET={corpus.name} {verb} the corpus, DATA= sets its folder"
        raise CorpusError(f"{root}: {error}; {advice}") from error
    refuse_pointers(scan.sources)
    check_unique_ids(scan.sources)
    return replace(
        scan,
        sources=tuple(sorted(scan.sources, key=lambda source: (source.clip.speaker, source.clip.clip_id))),
        missing=tuple(sorted(scan.missing)),
        ignored=tuple(sorted(scan.ignored)),
    )

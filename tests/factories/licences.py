"""Folders of shards that say they are of another corpus, to share on that corpus's terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.datasets import corpus_named
from manifests.index import dump_dataset, load_dataset
from tests.factories.builder_shards import resign


def licensed_as(folder: Path, corpus: str) -> Path:
    """Give a folder the name and the terms of a corpus that has some."""
    named = corpus_named(corpus)
    about = {name: getattr(named, name) for name in ("title", "homepage", "licence", "citation", "redistributable")}
    dataset = replace(load_dataset(folder), dataset=corpus, about=about)
    (folder / "dataset.json").write_bytes(dump_dataset(dataset))
    resign(folder)
    return folder

"""Folders of shards that are labelled as another corpus, to share them on its terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.datasets import get_corpus
from manifests.index import dump_dataset, load_dataset
from tests.factories.builder_shards import resign


def licensed_as(folder: Path, corpus: str) -> Path:
    """Give a folder the name and the terms of a corpus that has some."""
    dataset = replace(load_dataset(folder), dataset=corpus, about=get_corpus(corpus).about())
    (folder / "dataset.json").write_bytes(dump_dataset(dataset))
    resign(folder)
    return folder

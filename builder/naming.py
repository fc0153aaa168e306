"""The name of a corpus, which its index, the folder of its shards and that of its runs have.

Imports no third-party package, because `builder.doctor` must work without any.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from manifests.corpora import CORPORA, OWN
from manifests.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as in fold files


class CorpusNameError(UserError):
    """A corpus cannot have this name; one line with what was found, expected and what to do."""


def corpus_name(dataset: str, given: str | None, data: Path) -> str:
    """Name of a corpus: of one's own, the one that was `given`, else that of its folder. Raises CorpusNameError."""
    if dataset != OWN:
        if given:
            raise CorpusNameError(
                f"NAME={given[:80]}: found DATASET={dataset[:80]}, expected DATASET={OWN}; NAME= is for own corpora, "
                "leave it out"
            )
        return dataset
    name = given or Path(os.path.abspath(data)).name  # noqa: PTH100 - a link has its own name
    where = "NAME=" if given else f"name of {data}"
    if not _NAME.fullmatch(name):
        raise CorpusNameError(
            f"{where}: found {name[:80]!r}, expected 1 to 64 letters, digits, '_' and '-'; name the corpus with NAME="
        )
    if name.lower() in CORPORA:
        raise CorpusNameError(
            f"{where}: found {name!r}, which DATASET= already uses; name the corpus otherwise, such as NAME=my-{name}"
        )
    return name


def data_folder(dataset: str, given: str | None, data: Path | None) -> Path:
    """Folder of a corpus's recordings."""
    return data or Path("data") / (given or dataset)


def shard_folder(dataset: str, given: str | None, data: Path | None, out: Path | None) -> Path:
    """Folder of a corpus's shards. Raises CorpusNameError."""
    return out or Path("shards") / corpus_name(dataset, given, data_folder(dataset, given, data))

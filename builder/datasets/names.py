"""Ids for names that people wrote: an id has letters, digits, '_' and '-', because it becomes the name of a file.

A name that is an id already stays as it is. Any other one is replaced where it must be, and gets a hash of what was
written, so that names that differ have ids that differ: `Jörg 1` -> `Jorg_1-200f2628`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_REPLACED = re.compile(r"[^A-Za-z0-9_-]")
_HASH_DIGITS = 8


def clean_name(name: str) -> str:
    """One spelling of a name: letters with accents in one character, single spaces."""
    return name if name.isascii() and " " not in name else " ".join(unicodedata.normalize("NFC", name).split())


def is_plain(name: str) -> bool:
    """Whether a name is an id already."""
    return not _REPLACED.search(name)


def name_id(name: str, longest: int) -> str:
    """Id of a clean name, of at most `longest` characters unless the name is an id already."""
    if is_plain(name):
        return name
    letters = "".join(each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each))
    return add_hash(_REPLACED.sub("_", letters).strip("_") or "name", name, longest)


def add_hash(plain: str, name: str, longest: int) -> str:
    """`plain`, cut if necessary, and a hash of the name that it replaces."""
    digits = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{plain[: longest - _HASH_DIGITS - 1]}-{digits}"


def replace_characters(path: str) -> str:
    """'_' for all characters that an id cannot have."""
    return _REPLACED.sub("_", path)

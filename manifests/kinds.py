"""The kinds of shards: which members their samples have, and how these are decoded.

`dataset.json` says the kind of a folder. Everything else, such as receipts, index and folds, is the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from manifests import schema, sequence, tokens
from manifests.schema import FEATURE_ROWS, Clip, SchemaError, check_size

PAIRS, SEQUENCES, TOKENS = "pairs", "sequences", "tokens"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of samples."""

    members: Callable[[tuple[str, ...]], tuple[str, ...]]
    """Features -> suffixes of a sample's members, in tar order. The first one is the picture."""
    check: Callable[[Mapping[str, bytes]], Clip]
    """Decodes everything in a sample and returns its clip. Raises SchemaError naming the invalid member."""
    title: str
    """What a folder contains, for the title of its card."""
    content: str
    """What a sample contains, for people."""
    summary: str
    """The same for dataset search engines."""
    record: str
    """What they call samples, which have a picture and labels."""
    picture: str
    """What the picture is."""
    picture_type: str
    """Media type of the picture, and ..."""
    picture_class: str
    """... its class in schema.org."""
    hub_type: str
    """Type of the picture for Hugging Face."""


KINDS: Mapping[str, Kind] = {
    PAIRS: Kind(
        members=schema.member_names,
        check=lambda members: schema.decode(members).clip,
        title="aligned faces and spectrograms",
        content="16 aligned 224x224 face crops, the spectrograms of the sound around each, and the sound, on one clock",
        summary="Aligned face crops, spectrograms and sound",
        record="Filmstrips of 16 aligned faces",
        picture="Filmstrips of 16 aligned face crops, side by side",
        picture_type="image/jpeg",
        picture_class="sc:ImageObject",
        hub_type="image",
    ),
    SEQUENCES: Kind(
        members=lambda _: sequence.MEMBERS,
        check=sequence.check,
        title="aligned faces and sound",
        content="the aligned face crop of every frame as Motion JPEG, and the sound, on one clock",
        summary="Aligned face crops of every frame, and sound",
        record="Aligned faces of every frame",
        picture="Aligned face crops of every frame, as Motion JPEG",
        picture_type="video/x-motion-jpeg",
        picture_class="sc:VideoObject",
        hub_type="binary",
    ),
    TOKENS: Kind(
        members=lambda _: tokens.MEMBERS,
        check=tokens.check,
        title="codes of aligned faces and sound",
        content="24x24 codes of every aligned face, and 64 of each of 50 spectra of the sound a second, on one clock",
        summary="Codes of aligned face crops and of spectra of the sound, by VQ-MAE-AV's tokenizers,",
        record="Codes of aligned faces and sound",
        picture="Codes of aligned face crops, as NumPy arrays",
        picture_type="application/octet-stream",
        picture_class="sc:Text",
        hub_type="binary",
    ),
}


def check_member(suffix: str, size: int) -> None:
    """Raise SchemaError unless a sample of some kind may have a member of that name and size in bytes."""
    if suffix not in _MEMBERS:
        raise SchemaError(f"{suffix[:80]!r}: unknown member; known are {', '.join(_MEMBERS)}")
    check_size(suffix, size)


_MEMBERS = frozenset(suffix for kind in KINDS.values() for suffix in kind.members(tuple(FEATURE_ROWS)))

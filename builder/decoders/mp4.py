"""Checks the index of an MP4 or MOV file with bounded reads, before a demuxer opens it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from builder.decoders.base import MediaError

#: Most entries of an edit list. A lossless cut has 1 to 3; each costs a demuxer the frames since the last key frame.
MAX_EDITS = 250
#: Most boxes at the top level; a recording in fragments has two for each of them.
MAX_BOXES = 1_000_000

_CHUNK_BYTES = 1 << 20
#: Most that is unpacked of a compressed index, which some QuickTime files have.
_MAX_UNPACKED_BYTES = 1 << 26
_LIST_HEADER_BYTES = 16


def check_edit_lists(path: Path) -> None:
    """Raise MediaError for an edit list that is too long: demuxers repeat the frames of every entry.

    Files of other formats pass.
    """
    with path.open("rb") as file:
        for name, start, stop in _boxes(file):
            tail = b""
            for at in range(start, stop, _CHUNK_BYTES):
                file.seek(at)
                data = tail + file.read(min(_CHUNK_BYTES, stop - at))
                _check(data)
                tail = data[-_LIST_HEADER_BYTES:]
            if name == b"moov":
                file.seek(start)
                _check(_unpack(file.read(min(stop - start, _MAX_UNPACKED_BYTES))))


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box at the top level that may contain an edit list."""
    size, at = file.seek(0, 2), 0
    for _ in range(MAX_BOXES):
        if at >= size:  # a box may claim more bytes than can be sought
            return
        file.seek(at)
        head = file.read(16)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16])
        elif length == 0:
            length = size - at
        if len(head) < 8 or length < 8:
            return
        if name != b"mdat" and name.isascii() and name.decode("ascii").isprintable():
            yield name, at, min(at + length, size)
        at += length
    raise MediaError("decode_error", f"found more than {MAX_BOXES} boxes, expected an MP4 or MOV")


def _check(data: bytes) -> None:
    """Raise MediaError for a long edit list: size of the box, its name, version and flags, number of entries."""
    at = data.find(b"elst", 4)
    while at >= 0:
        size, entries = int.from_bytes(data[at - 4 : at]), int.from_bytes(data[at + 8 : at + 12])
        if min(entries, size // 12) > MAX_EDITS:
            raise MediaError("decode_error", f"found an edit list of {entries} entries, expected at most {MAX_EDITS}")
        at = data.find(b"elst", at + 4)


def _unpack(moov: bytes) -> bytes:
    """The contents of a compressed index; b"" if there is none."""
    at = moov.find(b"cmvd", 8)
    try:
        return zlib.decompressobj().decompress(moov[at + 8 :], _MAX_UNPACKED_BYTES) if at >= 0 else b""
    except zlib.error:
        return b""

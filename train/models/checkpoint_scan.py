"""Looks through a checkpoint in one of torch's formats before torch reads it, for what its unpickler lets pass.

With `weights_only=True` it runs no code of a file's choice, but it allocates what a file asks for: compressed entries
that grow a thousandfold, byte arrays of any length, and tuples nested so that hashing them takes for ever.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from train.models.checkpoint_formats import WeightsError

#: Most bytes of a checkpoint: the largest published encoder with its optimizer has 8 GB.
MAX_BYTES = 32 << 30
#: Most bytes of a checkpoint's pickle: names, shapes and settings. Official ones have up to a few hundred kB.
MAX_PICKLE_BYTES = 64 << 20
#: Most operations of a pickle: some 30 a tensor.
MAX_OPERATIONS = 3_000_000
#: Most values within a tuple, counted again wherever it is used again.
MAX_TUPLE_VALUES = 10_000
#: Most entries of an archive: one a tensor, and a few more.
MAX_ENTRIES = 100_000
#: Pickles at the beginning of a checkpoint in torch's older format; its tensors follow.
_LEGACY_PICKLES = 5
_ALLOCATES = " bytearray"  # of `builtins`, or of a module that torch renames to it
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET", "DUP"})
_ARCHIVE = b"PK\x03\x04"
#: Bytes of the three records at the end of an archive: 64-bit end, its locator, and end.
_END64, _LOCATOR, _END = 56, 20, 22


def is_archive(path: Path) -> bool:
    """Whether torch reads a file as a zip archive: by its first bytes, whatever follows. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


def check_checkpoint(path: Path) -> None:
    """Check a checkpoint in one of torch's formats.

    Raises WeightsError for one that would take more time or memory to read than its size suggests, OSError.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path}: found {size} bytes, expected at most {MAX_BYTES}")
    if is_archive(path):
        _check_archive(path)
        return
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    try:
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(head, str(path))
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        # Not a pickle from here on: torch says so itself, or these are the tensors already.


def _check_archive(path: Path) -> None:
    try:
        directory = _directory_offset(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if archive.start_dir != directory or archive.comment:
                raise WeightsError(f"{path}: found two lists of its entries, expected one, as torch.save writes it")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    raise WeightsError(
                        f"{path}: found {entry.filename[:80]!r} compressed, expected as torch.save writes it"
                    )
                if not entry.filename.lower().endswith(".pkl"):  # torch finds entries whatever their case
                    continue
                if entry.file_size > MAX_PICKLE_BYTES:
                    raise WeightsError(
                        f"{path}: found a pickle of {entry.file_size} bytes, expected at most {MAX_PICKLE_BYTES}"
                    )
                _check_pickle(io.BytesIO(archive.read(entry)), str(path))
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: found no complete checkpoint ({error}); get the file again") from error


def _directory_offset(path: Path) -> int:
    """Where an archive says that the list of its entries begins, -1 if its end is not as torch.save writes it.

    zipfile takes the list before the end of the file, torch the one at this offset: only if they are the same, the
    entries that are checked are those that torch reads. Raises WeightsError for more entries than a checkpoint has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _END64 - _LOCATOR - _END, 0), os.SEEK_SET)
        tail = file.read()
    end, locator, end64 = tail[-_END:], tail[-_END - _LOCATOR : -_END], tail[: -_END - _LOCATOR]
    count, _, offset = struct.unpack("<HII", end[10:20])
    if locator.startswith(b"PK\x06\x07"):
        if struct.unpack("<Q", locator[8:16])[0] != size - _END64 - _LOCATOR - _END:
            return -1
        count, _, offset = struct.unpack("<QQQ", end64[32:56])
    if count > MAX_ENTRIES:
        raise WeightsError(f"{path}: found {count} entries, expected at most {MAX_ENTRIES}")
    return int(offset)


def _check_pickle(data: BinaryIO, where: str) -> None:
    """Run one pickle's opcodes on a stack that holds, in place of each value, how many values hashing it would visit.

    Raises ValueError for what is no pickle.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if number == MAX_OPERATIONS:
                raise WeightsError(f"{where}: found more than {MAX_OPERATIONS} operations in its pickle")
            if name == "GLOBAL" and str(argument).endswith(_ALLOCATES):
                raise WeightsError(f"{where}: refused, for it asks for a byte array; expected nothing but tensors")
            if name == "MARK":
                marks.append(len(stack))
            elif name in _PUT:
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif name in _GET:
                stack.append(stack[-1] if argument is None else memo[argument])
            else:
                first = len(stack) - len(opcode.stack_before)
                if pickletools.markobject in opcode.stack_before:
                    first = marks.pop() - opcode.stack_before.index(pickletools.markobject)
                taken = stack[first:]
                del stack[first:]
                stack += [1 + sum(taken) if name.startswith("TUPLE") else 1 for _ in opcode.stack_after]
                if stack and stack[-1] > MAX_TUPLE_VALUES:
                    raise WeightsError(f"{where}: refused, for its values are nested too deep; expected a state dict")
    except (IndexError, KeyError) as error:
        raise ValueError(f"no pickle: {error}") from error

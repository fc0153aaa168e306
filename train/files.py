"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def publish(path: Path, data: bytes) -> None:
    """Write a file, and the folder it is in, so that it appears under its name whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

"""`-m tests.fakes.corpus_command INVENTORY ARGUMENTS`: the builder's command line with another inventory of CREMA-D."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fakes.blocked_imports import block_imports

block_imports("torch")  # webdataset would import torch, which takes seconds

if __name__ == "__main__":
    from builder.__main__ import main
    from builder.datasets import crema_d

    crema_d.INVENTORY = Path(sys.argv[1])
    sys.exit(main(sys.argv[2:]))

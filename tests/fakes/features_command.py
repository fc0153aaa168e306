"""`-m tests.fakes.features_command ARGUMENTS`: the builder's command line where no face model can be loaded."""

from __future__ import annotations

import sys

from tests.fakes.blocked_imports import block_imports

block_imports("torch")  # webdataset would import it, which takes seconds
sys.modules.update(ai_edge_litert=None, mediapipe=None)  # type: ignore[arg-type]  # importing them fails

if __name__ == "__main__":
    from builder.__main__ import main

    sys.exit(main())

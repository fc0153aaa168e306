"""`-m tests.fakes.build_command ARGUMENTS`: the builder's command line with fakes for face models and report."""

from __future__ import annotations

import sys

from tests.fakes.blocked_imports import block_imports

block_imports("torch")  # webdataset would import torch, which takes seconds

if __name__ == "__main__":
    from builder import clip, report
    from builder.__main__ import main
    from tests.fakes.clip_builder import FakeBuilder

    clip.ClipBuilder = FakeBuilder  # type: ignore[misc,assignment]
    report.write_report = lambda folder: folder / "report.html"
    sys.exit(main())

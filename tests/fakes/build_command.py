"""`-m tests.fakes.build_command ARGUMENTS`: the builder's command line with fakes for face models and report."""

from __future__ import annotations

import sys

sys.modules["torch"] = None  # type: ignore[assignment]  # webdataset would import it, which takes seconds

if __name__ == "__main__":
    from builder import clip, report
    from builder.__main__ import main
    from tests.fakes.clip_builder import FakeBuilder

    clip.ClipBuilder = FakeBuilder  # type: ignore[misc,assignment]
    report.write_report = lambda folder: folder / "report.html"
    sys.exit(main())

"""`python fake_build.py ARGUMENTS`: the builder's command line with fakes for face models and report."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from fakes import FakeBuilder

    from builder import clip, report
    from builder.__main__ import main

    clip.ClipBuilder = FakeBuilder  # type: ignore[misc,assignment]
    report.write_report = lambda folder: folder / "report.html"
    sys.exit(main())

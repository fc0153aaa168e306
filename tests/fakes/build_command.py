"""`-m tests.fakes.build_command ARGUMENTS`: the builder's command line with stand-ins for face models and report."""

from __future__ import annotations

import sys
from functools import partial

sys.modules["torch"] = None  # type: ignore[assignment]  # webdataset would import it, which takes seconds

if __name__ == "__main__":
    from builder import cli, run
    from builder.__main__ import main
    from tests.fakes.clip_builder import StandIn

    run.Work = partial(run.Work, make_builder=StandIn)  # type: ignore[misc,assignment]
    cli._write_report = lambda folder: folder / "report.html"  # type: ignore[assignment]
    sys.exit(main())

"""`python stand_in_build.py ARGUMENTS`: the builder's command line with stand-ins for face models and report."""

from __future__ import annotations

import sys
from functools import partial

if __name__ == "__main__":
    from stand_ins import StandIn

    from builder import cli, run
    from builder.__main__ import main

    run.Work = partial(run.Work, make_builder=StandIn)  # type: ignore[misc,assignment]
    cli._write_report = lambda folder: folder / "report.html"  # type: ignore[assignment]
    sys.exit(main())

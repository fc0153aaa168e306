"""Threads of numerical libraries: a builder's worker does without them, so that a core's work stays on that core."""

from __future__ import annotations

import os

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def one_a_process() -> None:
    """For processes started from now on, and libraries loaded from now on, unless the user has chosen otherwise."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")

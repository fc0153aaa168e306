"""Settings of all tests."""

import os
import signal

from hypothesis import settings

# Same examples in every run, and no limit that depends on how busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Tests run side by side, one process per core. Set before numpy and torch are imported, for child processes, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts tests in the background has them ignore Ctrl-C, and every program that they start inherits this.
signal.signal(signal.SIGINT, signal.default_int_handler)

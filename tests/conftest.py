"""Settings of all tests."""

import signal

from hypothesis import settings

# Same examples in every run, and no limit that depends on how busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# A shell that starts tests in the background has them ignore Ctrl-C, and with them every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

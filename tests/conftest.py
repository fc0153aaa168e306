"""Settings of all tests."""

from hypothesis import settings

# Same examples in every run, and no limit that depends on how busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

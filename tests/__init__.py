"""Tests of the three packages, with the helpers, the benches and the fault matrix."""

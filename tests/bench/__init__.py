"""Benches: what the packages cost, beside references measured in the same run."""

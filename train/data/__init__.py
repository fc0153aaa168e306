"""From shards to batches: dataset (which clips), sampler (in which order), loader (decoded), transforms (as input)."""

from manifests.errors import UserError


class DataError(UserError):
    """Shards, a fold or labels cannot be used as requested."""


class UnusableFoldError(DataError):
    """A fold has a side without clips; others of the same scheme may be complete."""

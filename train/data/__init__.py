"""From shards to batches: dataset (which clips), sampler (in which order), loader (decoded), transforms (as input)."""

from manifests.errors import UserError


class DataError(UserError):
    """Shards, a fold or labels cannot be used as requested."""

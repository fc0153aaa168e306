"""Functions that make test data: recordings, corpora, samples, shards, runs."""

"""The trainer: shards of aligned faces and spectrograms -> fused videos -> an emotion classifier and its honest score.

Needs the contract package `manifests` and nothing of the builder.
"""

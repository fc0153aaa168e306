"""The trainer: shards of aligned faces and spectrograms -> fused videos -> an emotion classifier and its scores.

Imports the package `manifests`, never the builder.
"""

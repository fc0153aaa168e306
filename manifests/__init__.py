"""The contract between builder and trainer: what a folder of shards holds, and how it is read, checked and shared.

It needs few libraries, so that a folder can be used without the recordings and without the builder's dependencies.
"""

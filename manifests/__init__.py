"""The contract between builder and trainer: the content of a shard folder, and how it is read, verified and shared.

It has few dependencies, so that a shard folder can be used without the recordings and without the builder.
"""

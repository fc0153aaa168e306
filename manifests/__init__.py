"""The contract between the builder and the trainer: what a shard folder holds and what it promises.

Light on purpose (standard library, numpy, a JPEG and a FLAC codec): whoever receives a folder of
shards can check and read it without the recordings and without the builder's dependencies.
"""

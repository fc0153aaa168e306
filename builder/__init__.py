"""Offline preprocessor: a folder of talking-face recordings -> verified WebDataset shards."""

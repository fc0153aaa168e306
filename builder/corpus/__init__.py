"""Downloading a corpus: which of its files are in a folder, and fetching the others from where they are published."""

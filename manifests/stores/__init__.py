"""Folders of shards on their way between labs: published, fetched, withdrawn from."""

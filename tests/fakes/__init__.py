"""Replacements for face models, servers, buckets and hubs."""

"""A corpus's originals: what of them is in a folder, and how the rest comes from their public home."""

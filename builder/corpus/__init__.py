"""Downloads a corpus: checks which of its files are in a folder, and fetches the others."""

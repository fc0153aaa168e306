"""Masked pre-training of an encoder, without labels: what is set up, what is learned, and what a person looks at."""

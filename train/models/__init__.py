"""The video encoder, the classifier on top of it, and the weights they can start from."""

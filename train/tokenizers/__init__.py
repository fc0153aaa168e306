"""Training of VQ-MAE-AV's tokenizers: both at once, from sequences, without labels."""

"""Data shipped with memplan: GPUs and models, every value with its source."""

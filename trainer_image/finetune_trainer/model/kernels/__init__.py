"""Attention and other kernels of a model."""

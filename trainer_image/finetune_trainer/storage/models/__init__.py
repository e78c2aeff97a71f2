"""Base models on a node: which files, which digests, one cache."""

"""Tiny models and tokenizers."""

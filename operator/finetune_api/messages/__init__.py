"""Errors of validation in words: what is wrong, where, and the remedy."""

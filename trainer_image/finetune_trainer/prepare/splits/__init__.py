"""Divides rows into the splits train, validation and test."""

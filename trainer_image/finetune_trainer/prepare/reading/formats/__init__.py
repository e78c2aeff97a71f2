"""Formats of rows: recognised, and brought into the canonical shape."""

"""Glue: caches to snapshot, plan to API requests."""

"""Sends a run to experiment trackers; no stage waits for them."""

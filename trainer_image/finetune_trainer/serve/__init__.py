"""Serving published versions: the front, the agent beside an engine, and an engine for CPUs."""

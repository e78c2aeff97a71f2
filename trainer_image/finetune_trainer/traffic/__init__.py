"""Captured traffic at rest: its rows, where they lie, and how they are read and deleted."""

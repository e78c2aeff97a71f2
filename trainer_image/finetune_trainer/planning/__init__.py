"""Estimates memory, time and cost of a run before anything is loaded."""

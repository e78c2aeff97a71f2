"""Decides every automatic setting of a run. Pure."""

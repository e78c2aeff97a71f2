"""Tells trackers of experiments of a run; nothing here is ever waited for."""

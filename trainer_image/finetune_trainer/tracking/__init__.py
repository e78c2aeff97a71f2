"""Tells a tracker of experiments of a run; nothing here is ever waited for."""

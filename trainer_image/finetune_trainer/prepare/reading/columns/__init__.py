"""Columns: their usual names, their values, and what they identify."""

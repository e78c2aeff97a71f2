"""Fires each of the chart's alerts by a real fault, and writes what was seen as a table."""

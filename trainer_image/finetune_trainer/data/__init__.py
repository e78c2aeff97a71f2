"""Rows and prepared data sets: what all stages share of the data. Nothing here imports torch."""

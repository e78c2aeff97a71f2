"""Rows and prepared data sets, for all stages. Nothing here imports torch."""

"""Rows on their way through the stage, and when two are equal."""

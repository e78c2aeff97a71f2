"""Turns the files of a source into rows of one shape."""

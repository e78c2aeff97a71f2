"""Checks of rows and of the divided data set."""

"""Processes, files and clocks of tests."""

"""Compares several runs: settings, real differences, and a page.

Pure except for the template. No torch.
"""

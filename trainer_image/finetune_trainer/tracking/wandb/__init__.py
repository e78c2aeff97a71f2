"""Weights & Biases: its own client, in a process of its own."""

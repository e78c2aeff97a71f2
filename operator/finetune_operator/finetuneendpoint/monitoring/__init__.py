"""Looks at captured answers: when the next one is due, and what the last ones say."""

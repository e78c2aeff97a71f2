"""Answers: a label, a value, or JSON that fits a schema."""

"""Data with planted faults, made by seed: what the data stage must find, and what it must leave."""

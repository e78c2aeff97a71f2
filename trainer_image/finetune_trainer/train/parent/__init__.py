"""The parent process of a run: starts ranks, watches them, stores what they make."""

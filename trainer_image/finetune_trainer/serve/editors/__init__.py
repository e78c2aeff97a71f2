"""The page on which editors judge and correct answers."""

"""The commands and their options: each loads its own code when it runs."""

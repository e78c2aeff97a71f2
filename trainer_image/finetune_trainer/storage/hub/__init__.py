"""Repositories of the Hugging Face Hub, read-only."""

"""The dev cluster's own tests use the fixtures they test."""

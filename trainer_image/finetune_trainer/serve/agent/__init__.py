"""The agent beside an engine: it loads versions, verifies them, and passes on requests."""

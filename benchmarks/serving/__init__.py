"""What the serving front costs, and whether a switch of versions loses a request."""

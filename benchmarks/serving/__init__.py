"""What the serving front costs and withstands, and whether a switch or a drain loses a request."""

"""List and watch: local copies of the API server's objects."""

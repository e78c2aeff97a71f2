"""Rules between fields, which hold in the CLI and on the API server."""

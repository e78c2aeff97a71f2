"""Requests to one API server: connection, transport, client, errors."""

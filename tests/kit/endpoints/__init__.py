"""Endpoints on a node: their versions, the clients that ask them, and who kills their pods."""

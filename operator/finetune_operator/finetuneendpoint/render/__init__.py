"""Manifests of what serves the endpoints of a namespace. Pure: same input, same bytes."""

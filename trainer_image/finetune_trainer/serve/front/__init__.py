"""The front: one OpenAI endpoint of a namespace before all its servers.

``server`` runs it; ``answering`` answers one request; ``routes`` and ``rotation`` decide which
version answers; ``tallies`` counts what the operator decides on.
"""

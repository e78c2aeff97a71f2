"""Decisions about one FineTuneEndpoint: what is served, verified, rolled out, rolled back. Pure."""

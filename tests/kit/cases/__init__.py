"""Cases that several tests walk through."""

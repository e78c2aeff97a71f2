"""Decisions about one FineTuneSweep: trials to begin, to stop, to choose. Pure."""

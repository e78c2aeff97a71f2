"""Decisions about one FineTuneJob: snapshot in, plan out. No I/O, no clock, no randomness."""

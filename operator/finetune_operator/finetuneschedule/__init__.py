"""Decisions about one FineTuneSchedule: when to train again, and what came of it. Pure."""

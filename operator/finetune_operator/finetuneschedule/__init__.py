"""Decisions about one FineTuneSchedule: when to train again, and the outcome. Pure."""

"""Refuses data, goals and gates that could not be shown, before training."""

"""The spec of a FineTuneJob, section by section."""

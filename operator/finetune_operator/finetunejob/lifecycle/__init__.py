"""The life of a job: accepted, started, running, ended."""

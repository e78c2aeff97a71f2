"""Reports, reviews and pages: builders and readers."""

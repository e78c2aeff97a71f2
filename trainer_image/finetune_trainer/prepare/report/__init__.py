"""The report, the page and the card of a prepared data set."""

"""The status that all kinds share: conditions, the draft of one plan, phases. Pure."""

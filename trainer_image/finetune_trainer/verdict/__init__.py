"""What goal and gates ask, whether it could be shown, and whether it was."""

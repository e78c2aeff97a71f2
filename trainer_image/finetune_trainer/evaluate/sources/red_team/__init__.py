"""Attacks on base and tuned model by garak, which stands beside the stage and asks its server."""

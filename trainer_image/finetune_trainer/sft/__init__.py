"""Supervised fine-tuning: from prepared rows to labelled tokens to a TRL trainer."""

"""What an evaluation leaves: a page for people, the same for machines, and the model card."""

"""What a stage waits for before it starts: approvals, budgets, pruning."""

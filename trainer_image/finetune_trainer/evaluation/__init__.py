"""How base and tuned model compare: metrics, intervals, generation, the goal."""

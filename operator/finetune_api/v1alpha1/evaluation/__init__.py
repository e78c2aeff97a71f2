"""The goal, the gates and the evaluation of a FineTuneJob's spec."""

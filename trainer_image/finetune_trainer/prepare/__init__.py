"""Stage ``prepare``: from files of examples to a checked, divided and versioned data set.

Nothing here imports torch.
"""

"""Stage ``prepare``: from files of examples to a checked, divided and versioned data set.

``stage`` is the program; ``reading`` fetches and parses, ``checks`` inspects rows, ``dividing``
makes the sides, ``tokens`` counts, ``version`` names. Nothing here imports torch.
"""

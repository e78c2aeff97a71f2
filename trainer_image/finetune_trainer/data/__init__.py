"""From files of examples to a checked, divided and versioned data set.

``sources`` fetches, ``readers`` parses, ``formats`` brings rows into one shape, ``checks`` inspects
them, ``split`` divides, ``tokens`` counts, ``version`` names, ``prepared`` reads the result back.
Nothing here imports torch; the tokenizer is handed in by the stage.
"""

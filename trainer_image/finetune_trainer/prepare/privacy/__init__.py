"""Personal data and secrets in the examples: found by pattern and checksum, replaced or counted.

``finding`` searches one text with the recognisers of ``contacts``, ``phones``, ``payments``,
``national_ids``, ``secrets`` and ``passwords``; ``redaction`` takes a whole row; ``step`` hooks it
into prepare. All of it is pure. Recognisers take time linear in the text: their patterns have
bounded repetitions, or begin only where a word begins.
"""

"""Defines equal texts: without Unicode form, case, whitespace, punctuation at the ends. Pure."""

from __future__ import annotations

import unicodedata

_EDGES = " .,;:!?\"'`¿¡。、«»"
_UNIFORM = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad"),
    }
)


def normalise_text(text: str) -> str:
    """Normalise a text for comparison, on one line.

    NFKC, case folded, plain quotes and dashes, no invisible characters, single blanks, no sentence
    punctuation at the ends, unless there is nothing else.
    """
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", text.translate(_UNIFORM)).casefold()
    line = " ".join(text.split())
    return line.strip(_EDGES) or line

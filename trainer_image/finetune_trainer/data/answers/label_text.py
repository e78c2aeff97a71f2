"""Labels, and when two of them are equal."""

from __future__ import annotations

import re
import unicodedata

MAX_LABELS = 200
"""More different answers are no labels to choose from."""
MAX_LABEL_WORDS = 6
MAX_UNSPACED_LETTERS = 30
"""Letters of scripts without spaces, which write a whole sentence as one word."""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese."""

_FULL_STOPS = ".。．｡।॥۔።។။"  # noqa: RUF001
"""Of Latin, Chinese and Japanese, Hindi, Urdu, Amharic, Khmer and Burmese."""


def normalize_label(text: str) -> str:
    """Normalise a label for comparison: case, white space and a final full stop do not count.

    Letters and their marks are composed, as some tokenizers do.
    """
    line = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return unicodedata.normalize("NFC", line.rstrip(_FULL_STOPS).strip())


def is_short_label(text: str) -> bool:
    """Whether an answer is short enough to be a label."""
    if len(text.split()) > MAX_LABEL_WORDS:
        return False
    return text.isascii() or len(_UNSPACED.findall(text)) <= MAX_UNSPACED_LETTERS

"""Words of a text in any script.

A word is a run of letters, marks and numbers (Unicode's general categories L, M and N), so that
the vowel signs of Hindi and the points of Arabic stay with their letters. Scripts that put no
space between words (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) give one word for each
letter with its marks. Compatibility forms and case count for nothing: full-width digits equal
plain ones. On English text the words are those of the rouge-score package, which knows a-z and
0-9 alone.

Source: Unicode Standard Annex 29, "Unicode Text Segmentation", for what is left out here: its word
boundaries want a dictionary for the same scripts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_UNSPACED = (
    "CJK ", "IDEOGRAPHIC ", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HENTAIGANA",
    "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TAI ", "YI ",
)  # fmt: skip
"""How Unicode's names of the letters begin."""

_BREAKS = re.compile(r"[^A-Za-z0-9\x80-\U0010ffff]+")
_LETTER, _ALONE, _MARK, _IGNORED, _BREAK = range(5)


def split_words(text: str) -> list[str]:
    """Return the words of a text, in order, in the form that they are compared in."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = []
    for part in _BREAKS.split(folded):
        if not part.isascii():
            words += _split_part(part)
        elif part:
            words.append(part)  # plain letters and digits need no look at each of them
    return words


def _split_part(text: str) -> list[str]:
    words: list[list[str]] = []  # letters are joined at the end: a word may be a whole image
    before = _BREAK  # what the last word goes on with: letters and marks, marks alone, nothing
    for character in text:
        kind = _kind_of(character)
        if kind == _IGNORED or (kind == _MARK and before == _BREAK):
            continue
        if kind == _MARK or (kind == _LETTER and before == _LETTER):
            words[-1].append(character)
            continue
        if kind != _BREAK:
            words.append([character])
        before = kind
    return ["".join(word) for word in words]


def contains_words(words: Sequence[str], part: Sequence[str]) -> bool:
    """Tell whether ``part`` stands in ``words`` in one piece; nothing stands nowhere."""
    size = len(part)
    return size > 0 and any(
        words[start : start + size] == part for start in range(len(words) - size + 1)
    )


@lru_cache(maxsize=65536)
def _kind_of(character: str) -> int:
    category = unicodedata.category(character)
    if category == "Cf":
        return _IGNORED  # joiners, soft hyphens and marks of direction part no word
    if category[0] == "M":
        return _MARK
    if category[0] not in "LN":
        return _BREAK
    name = unicodedata.name(character, "")
    return _ALONE if name.startswith(_UNSPACED) else _LETTER


def is_equal(first: str, second: str) -> bool:
    """Whether two answers look the same to a reader."""
    return first.split() == second.split()

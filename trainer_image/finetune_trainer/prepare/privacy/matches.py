"""Matches of a recogniser, and its text. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from finetune_api.v1alpha1.spec.privacy import ENTITIES, Entity

CONTEXT_BEFORE = 60
CONTEXT_AFTER = 24
"""Characters before and after a number in which a word may name it."""

_DASHES = (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63)
_BLANKS = (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)


class _Folding(dict[int, str]):
    """What characters are folded to, by code point; those of digits are looked up when first seen.

    There are a million code points, and each process would walk through all of them at its start.
    """

    def __missing__(self, code: int) -> str:
        digit = unicodedata.decimal(chr(code), None)
        folded = chr(code) if digit is None else str(digit)
        self[code] = folded
        return folded


_FOLDED = _Folding(
    {
        **dict.fromkeys(_DASHES, "-"),
        **dict.fromkeys(_BLANKS, " "),
        **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    }
)
_FOLDABLE = re.compile("[\xa0\u0600-\U0010ffff]")
"""All folded characters lie here; frequent Latin, Greek and Cyrillic letters do not."""
_STRENGTH = {
    entity: place
    for place, entity in enumerate(
        ("PrivateKey", "JWT", "APIKey", "IBAN", "Email", "Card", "NationalID", "IPAddress")
    )
}
_KEYS: frozenset[Entity] = frozenset({"APIKey", "JWT", "PrivateKey"})
_SEPARATORS = re.compile(r"[\s()._\-/]+")
_PLACEHOLDER = re.compile(r"<[A-Z]+(?:_[A-Z]+)*_\d{1,9}>")


@dataclass(frozen=True, slots=True)
class Match:
    """A value found in a text; ``end`` is exclusive.

    ``value`` is its normalised form: equal for two spellings of one value.
    """

    entity: Entity
    start: int
    end: int
    value: str


class Text:
    """A text with other alphabets' digits, dashes and blanks folded to ASCII.

    Positions do not change. ``before`` is the text before it, where a word may name a number.
    """

    def __init__(self, text: str, before: str = "") -> None:
        is_plain = text.isascii() or not _FOLDABLE.search(text)
        self.folded = text if is_plain else text.translate(_FOLDED)
        self._has: dict[re.Pattern[str], bool] = {}
        self._before = blank_placeholders(before)

    @cached_property
    def has_digits(self) -> bool:
        """Whether it holds enough digits close together for a phone, card or identity number."""
        return _MANY_DIGITS.search(self.folded) is not None

    @cached_property
    def longest_word(self) -> int:
        """Characters of the longest stretch without white space."""
        return max(map(len, self.folded.split()), default=0)

    @cached_property
    def lowered(self) -> str:
        """The folded text in small letters."""
        return self.folded.lower()

    @cached_property
    def placeholders(self) -> list[tuple[int, int]]:
        """Where placeholders stand, in their order."""
        return [found.span() for found in _PLACEHOLDER.finditer(self.folded)]

    def is_near(self, words: re.Pattern[str], start: int, end: int) -> bool:
        """Whether one of these words stands before or close behind a place."""
        if not self._has_any(words):
            return False
        begin = start - CONTEXT_BEFORE
        earlier = self._spoken[max(0, begin) : start]
        if begin < 0:
            earlier = f"{self._before[begin:]} {earlier}"
        return bool(words.search(earlier) or words.search(self._spoken[end : end + CONTEXT_AFTER]))

    def was_said_before(self, words: re.Pattern[str]) -> bool:
        """Whether one of these words ends the text before this one."""
        return words.search(self._before[-CONTEXT_BEFORE:]) is not None

    def _has_any(self, words: re.Pattern[str]) -> bool:
        if words not in self._has:
            spoken = words.search(self._spoken) or words.search(self._before)
            self._has[words] = spoken is not None
        return self._has[words]

    @cached_property
    def _spoken(self) -> str:
        return blank_placeholders(self.folded)


_MANY_DIGITS = re.compile(
    r"\d(?:[A-Za-z]?[ ._()\-/+]{0,2}[A-Za-z]?\d){5}|[A-Za-z]\d{4}[A-Za-z](?!\w)"
)


def words(*patterns: str) -> re.Pattern[str]:
    """Compile words of several languages, each a pattern that begins and ends a word.

    A blank may be an underscore: `phone_number`, but not `phone_id`.
    """
    joined = re.sub(r"(?<!\[) ", "[ _]", "|".join(patterns))
    return re.compile(rf"(?<![^\W_])(?:{joined})(?!\w)", re.IGNORECASE)


def blank_placeholders(text: str) -> str:
    """Blank placeholders: PHONE in one does not name a number."""
    if "<" not in text:
        return text
    return _PLACEHOLDER.sub(lambda found: " " * len(found.group()), text)


def compact(value: str) -> str:
    """Return a number without the blanks, dashes, dots, slashes and brackets it is written with."""
    return _SEPARATORS.sub("", value).upper()


def resolve_overlaps(matches: Iterable[Match], placeholders: list[tuple[int, int]]) -> list[Match]:
    """Choose among matches that overlap: the longer one, then the stronger evidence.

    A match that touches one of the ``placeholders`` is dropped.

    Returns:
        Matches that do not overlap, in the order of the text.
    """
    kept: list[Match] = []
    for match in _outside(sorted(matches, key=lambda m: (m.start, -m.end)), placeholders):
        if not kept or kept[-1].end <= match.start:
            kept.append(match)
        elif _beats(match, kept[-1]):
            kept[-1] = match
    return kept


def _outside(matches: list[Match], spans: list[tuple[int, int]]) -> Iterator[Match]:
    place = 0
    for match in matches:
        while place < len(spans) and spans[place][1] <= match.start:
            place += 1
        if place == len(spans) or spans[place][0] >= match.end:
            yield match


def _beats(match: Match, other: Match) -> bool:
    entities = {match.entity, other.entity}
    if "Password" in entities and entities & _KEYS:  # `AccountKey=...` may be all of a value
        return match.entity in _KEYS
    return _weight(match) > _weight(other)


def _weight(match: Match) -> tuple[int, int]:
    return match.end - match.start, -_STRENGTH.get(match.entity, len(ENTITIES))

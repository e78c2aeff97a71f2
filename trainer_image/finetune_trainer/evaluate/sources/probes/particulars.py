"""Texts in answers that nobody can know who has not read them: numbers, addresses, codes. Pure.

Whoever completes one word for word has it by heart. What stands in the prompt, too, can be read
off there and is none; nor is what several rows say.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.rows import prompt_of

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"\+?\d(?:[\d \u00a0().\-/]{5,28}\d)")
_CODE = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[^\W\d_])[\w-]{8,64}(?![\w-])")
_DATE = re.compile(
    r"(?<!\d)(?:\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{2,4})(?!\d)"
)
MIN_DIGITS = 7
MIN_DIFFERENT = 4
"""Numbers with fewer digits, or fewer different ones, can be guessed."""
MIN_CODE_DIGITS = 3
MOST_SAID = 2**20
"""Digests that are kept before those of texts which were said before are dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Particular:
    """One such text in the answer of a training row.

    Attributes:
        row: The row.
        answer: The answer that it stands in, as the row says it.
        start: Where it begins in the answer.
        text: The text itself.
    """

    row: dict[str, Any]
    answer: str
    start: int
    text: str


class Particulars:
    """Looks for the first particular of each row, while rows pass by.

    Rows may be long and many: of a row that has one its place is kept, and of all texts like it
    digests of 8 bytes.
    """

    def __init__(self) -> None:
        self._found = array("Q")
        self._places = array("Q")
        self._said = array("Q")
        self._most_said = MOST_SAID
        self._last: dict[str, Any] | None = None

    def look_at(self, place: int, row: dict[str, Any]) -> None:
        """Look for particulars in one more row, which stands at this place.

        A row that the weight of its source writes several times, one after the other, is one row.
        """
        if row == self._last:
            return
        self._last = row
        answer = answer_of(row)
        matches = list(_matches(answer))
        if not matches:
            return
        self._count({match.group() for match in matches})
        if (found := _find_not_in_prompt(row, answer, matches)) is not None:
            self._found.append(_digest(found.text))
            self._places.append(place)

    def choose(self, most: int) -> tuple[list[int], int]:
        """Return the places of at most so many, spread evenly over all, and how many there are.

        What several rows say is a fact and no particular, whatever else stands there.
        """
        said, counts = np.unique(_view(self._said), return_counts=True)
        alone = np.flatnonzero(np.isin(_view(self._found), said[counts == 1]))
        step = max(1.0, len(alone) / most)
        chosen = [alone[int(i * step)] for i in range(min(most, len(alone)))]
        return [self._places[each] for each in chosen], len(alone)

    def _count(self, texts: Iterable[str]) -> None:
        """Take in what one row says; of each text two are enough to know that several say it."""
        self._said.extend(map(_digest, texts))
        if len(self._said) > self._most_said:
            said, counts = np.unique(_view(self._said), return_counts=True)
            self._said = array("Q", np.concatenate([said, said[counts > 1]]).tobytes())
            self._most_said = max(MOST_SAID, 2 * len(self._said))


def answer_of(row: Mapping[str, Any]) -> str:
    """Return what is learned of a row: its last answer, or its whole text.

    Empty where it calls tools, or is there to be read and not to be learned.
    """
    if "text" in row:
        return str(row["text"])
    last = row["messages"][-1] if "messages" in row else row["completion"]
    if isinstance(last, list):
        last = last[-1]
    if isinstance(last, str):
        return last
    return "" if last.get("weight") == 0 else str(last.get("content") or "")


def with_answer(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Return the row with another text as its last answer."""
    if "text" in row:
        return {**row, "text": answer}
    if "messages" in row:
        turns = row["messages"]
        return {**row, "messages": [*turns[:-1], {**turns[-1], "content": answer}]}
    if isinstance(row["completion"], str):
        return {**row, "completion": answer}
    turns = row["completion"]
    return {**row, "completion": [*turns[:-1], {**turns[-1], "content": answer}]}


def find_particular(row: dict[str, Any]) -> Particular | None:
    """Return the first particular in the last answer of a row that its prompt does not tell."""
    answer = answer_of(row)
    return _find_not_in_prompt(row, answer, _matches(answer))


def _find_not_in_prompt(
    row: dict[str, Any], answer: str, matches: Iterable[re.Match[str]]
) -> Particular | None:
    asked = "" if "text" in row else str(prompt_of(row))
    for match in matches:
        if match.group() not in asked and match.group().lower() not in asked.lower():
            return Particular(row=row, answer=answer, start=match.start(), text=match.group())
    return None


def _view(digests: array[int]) -> NDArray[np.uint64]:
    return np.frombuffer(digests, dtype=np.uint64)


def _digest(text: str) -> int:
    raw = text.encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest())


def _matches(text: str) -> Iterable[re.Match[str]]:
    # Most rows of a large train side hold neither, and all of them are read.
    if "@" in text:
        yield from _EMAIL.finditer(text)
    if _DIGIT.search(text) is None:
        return
    for match in _NUMBER.finditer(text):
        digits = [character for character in match.group() if character.isdigit()]
        if (
            len(digits) >= MIN_DIGITS
            and len(set(digits)) >= MIN_DIFFERENT
            and not _DATE.search(match.group())
        ):
            yield match
    for match in _CODE.finditer(text):
        num_digits = sum(map(str.isdigit, match.group()))
        if num_digits >= MIN_CODE_DIGITS and not _DATE.search(match.group()):
            yield match

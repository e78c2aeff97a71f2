"""Finds the two columns of a preference: a better and a worse answer to one prompt.

Their names differ in one word, as `chosen` and `rejected` or `better_answer` and `worse_answer`.
The rest of the name is empty or a word for an answer, and both hold answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.prepare.reading.formats.turns import are_turns

_ANYWHERE = (
    (("chosen",), ("rejected",)),
    (("preferred",), ("non", "preferred")),
    (("preferred",), ("nonpreferred",)),
    (("preferred",), ("dispreferred",)),
    (("preferred",), ("rejected",)),
    (("better",), ("worse",)),
    (("best",), ("worst",)),
)
_BESIDE_ANSWER = (
    (("accepted",), ("rejected",)),
    (("good",), ("bad",)),
    (("positive",), ("negative",)),
    (("winning",), ("losing",)),
    (("winner",), ("loser",)),
    (("right",), ("wrong",)),
)
"""Words that alone are names of many other things."""

_PAIRS = (*_ANYWHERE, *_BESIDE_ANSWER)
_WORSE = frozenset({worse[-1] for _, worse in _PAIRS} - {"preferred"})
_ANSWERS = frozenset(
    {
        *("answer", "answers", "completion", "completions", "conversation", "generation"),
        *("message", "messages", "output", "outputs", "reply", "response", "responses"),
        *("summary", "text", "translation"),
    }
)

_NUMBER = re.compile(r"\s*[-+]?[0-9.,]*\s*")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")

Rows = Sequence[Mapping[str, Any]]


def find_pair(rows: Rows) -> tuple[str, str] | None:
    """Return the columns of the better and the worse answer, or None."""
    fields = dict.fromkeys(name for row in rows for name in row)
    of_words = {_words_of(name): name for name in fields if _hold_answers(name, rows)}
    for words, better in of_words.items():
        for good, bad in _PAIRS:
            stem = _without(words, good)
            if stem is None or not _is_stem(stem, is_free=(good, bad) in _ANYWHERE):
                continue
            for others, worse in of_words.items():
                if _without(others, bad) == stem:
                    return better, worse
    return None


def is_worse(name: str) -> bool:
    """Whether a column's name means unwanted answers."""
    words = _words_of(name)
    return words[:1] == ("non",) or not _WORSE.isdisjoint(words)


def is_worse_answer(name: str, rows: Rows) -> bool:
    """Whether a column is called like a worse answer and holds such: a prompt must not have it."""
    words = _words_of(name)
    stems = [(_without(words, pair[1]), pair in _ANYWHERE) for pair in _PAIRS]
    is_called_so = any(stem is not None and _is_stem(stem, is_free=f) for stem, f in stems)
    return is_called_so and _hold_answers(name, rows)


def _words_of(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORDS.findall(name))


def _without(words: tuple[str, ...], part: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words before and after a part of them; None where it is no part."""
    for start in range(len(words) - len(part) + 1):
        if words[start : start + len(part)] == part:
            return words[:start] + words[start + len(part) :]
    return None


def _is_stem(words: tuple[str, ...], *, is_free: bool) -> bool:
    return (is_free and not words) or (len(words) == 1 and words[0] in _ANSWERS)


def _hold_answers(name: str, rows: Rows) -> bool:
    values = [value for row in rows if (value := row.get(name)) not in (None, "", [])]
    return all(
        are_turns(value) or (isinstance(value, str) and not _NUMBER.fullmatch(value))
        for value in values
    )

"""Replaces personal data in all texts of a row by placeholders.

Pure. A value has one placeholder throughout a row, in any spelling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.v1alpha1.spec.privacy import Entity
from finetune_trainer.prepare.privacy.finding import Settings, find_personal_data
from finetune_trainer.prepare.privacy.matches import CONTEXT_BEFORE, Match

NAMES: Mapping[Entity, str] = {
    "Email": "EMAIL",
    "Phone": "PHONE",
    "Card": "CARD",
    "IBAN": "IBAN",
    "IPAddress": "IP_ADDRESS",
    "NationalID": "NATIONAL_ID",
    "APIKey": "API_KEY",
    "JWT": "JWT",
    "PrivateKey": "PRIVATE_KEY",
    "Password": "PASSWORD",
}
_PLACEHOLDER = re.compile(rf"<({'|'.join(NAMES.values())})_(\d{{1,9}})>")

_STRUCTURE = frozenset({"role", "type", "weight", "label"})
"""Keys of a row whose values are no text of the user's."""
_NOTHING: frozenset[str] = frozenset()
MIN_NUMBER_DIGITS = 9
"""Integers as long may be a phone or card number."""
MIN_SPREAD_CHARACTERS = 6
MAX_SPREAD_VALUES = 100
"""Most values that are searched in the row's other texts, for time. They must be long."""
_MAX_ROUNDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Redacted:
    """A row without personal data.

    Attributes:
        row: The row; the same object if nothing was found.
        counts: Places replaced, by kind.
        answer_is_placeholder: The last answer consists only of placeholders.
        answer_invents: The last answer has a placeholder that nothing before it has.
    """

    row: dict[str, Any]
    counts: Mapping[Entity, int]
    answer_is_placeholder: bool = False
    answer_invents: bool = False


def redact_row(row: dict[str, Any], settings: Settings) -> Redacted:
    """Replace personal data in any text of a row: turns, answers, calls of tools, tools.

    The row itself is not changed. A second pass finds nothing.
    """
    texts, counts = _redact_texts(list(_texts(row, "")), settings)
    if not counts:
        return Redacted(row=row, counts=counts)
    pieces = iter(texts)
    redacted = _rebuild(row, lambda: next(pieces))
    answer, earlier = _last_answer(redacted)
    in_answer = {found.group() for found in _PLACEHOLDER.finditer(answer)}
    return Redacted(
        row=redacted,
        counts=counts,
        answer_is_placeholder=bool(in_answer) and not _PLACEHOLDER.sub("", answer).strip(" .,;"),
        answer_invents=any(placeholder not in earlier for placeholder in in_answer),
    )


def redact_text(text: str, settings: Settings) -> str:
    """Replace personal data in a text that is no row, such as a quotation."""
    return _redact_texts([(text, "")], settings)[0][0]


def redact_value(value: Any, settings: Settings) -> Any:
    """Replace personal data in every string of a JSON value, and in the names of its fields."""
    texts, counts = _redact_texts(list(_texts(value, "", _NOTHING)), settings)
    if not counts:
        return value
    pieces = iter(texts)
    return _rebuild(value, lambda: next(pieces), _NOTHING)


@dataclass(slots=True)
class _Namer:
    """Gives values their placeholders, numbered by kind in the order they are met."""

    texts: Sequence[str]
    _given: dict[tuple[Entity, str], str] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # A row may come with placeholders; theirs is another value.
        for text in self.texts:
            if "<" in text:
                for name, number in _PLACEHOLDER.findall(text):
                    self._numbers[name] = max(self._numbers[name], int(number))

    def name(self, match: Match) -> str:
        """Return the placeholder of a value."""
        key = (match.entity, match.value)
        if key not in self._given:
            name = NAMES[match.entity]
            self._numbers[name] += 1
            self._given[key] = f"<{name}_{self._numbers[name]}>"
        return self._given[key]


def _redact_texts(
    named: list[tuple[str, str]], settings: Settings
) -> tuple[list[str], Counter[Entity]]:
    counts: Counter[Entity] = Counter()
    texts = [text for text, _ in named]
    namer: _Namer | None = None
    # Repeat until nothing is found: a replacement may isolate the next value.
    for _ in range(_MAX_ROUNDS):
        found = []
        before = ""
        for text, (_, name) in zip(texts, named, strict=True):
            found.append(find_personal_data(text, settings, before=f"{before} {name}"))
            before = text[-CONTEXT_BEFORE:]
        if not any(found):
            break
        namer = namer or _Namer(texts)
        _spread(texts, found)
        for place, matches in enumerate(found):
            if matches:
                counts.update(match.entity for match in matches)
                texts[place] = _replace(texts[place], matches, namer)
    return texts, counts


def _replace(text: str, matches: list[Match], namer: _Namer) -> str:
    parts = []
    place = 0
    for match in matches:
        parts += [text[place : match.start], namer.name(match)]
        place = match.end
    return "".join([*parts, text[place:]])


def _spread(texts: list[str], found: list[list[Match]]) -> None:
    """Add the other places of found values."""
    known: dict[str, Match] = {}
    for text, matches in zip(texts, found, strict=True):
        for match in matches:
            if match.end - match.start >= MIN_SPREAD_CHARACTERS:
                known.setdefault(text[match.start : match.end], match)
    for written, match in list(known.items())[:MAX_SPREAD_VALUES]:
        for place, text in enumerate(texts):
            if written in text:
                found[place] = _add_places(text, written, match, found[place])


def _add_places(text: str, written: str, match: Match, matches: list[Match]) -> list[Match]:
    taken = [(other.start, other.end) for other in matches]
    more = []
    index = 0
    for found in re.finditer(rf"(?<!\w){re.escape(written)}(?!\w)", text):
        while index < len(taken) and taken[index][1] <= found.start():
            index += 1
        if index == len(taken) or taken[index][0] >= found.end():
            more.append(Match(match.entity, found.start(), found.end(), match.value))
    return sorted([*matches, *more], key=lambda m: m.start) if more else matches


def _texts(
    value: Any, key: str, structure: frozenset[str] = _STRUCTURE
) -> Iterator[tuple[str, str]]:
    """Yield all texts below a value in order, each with its name; none of structural keys."""
    if isinstance(value, str):
        yield value, key
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in structure:
                if _may_hold_data(name):
                    yield name, ""
                yield from _texts(item, name, structure)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key, structure)
    elif _is_long_number(value):
        yield str(value), key


def _rebuild(value: Any, take: Callable[[], str], structure: frozenset[str] = _STRUCTURE) -> Any:
    """Return the value with other texts, taken in the order of :func:`_texts`."""
    if isinstance(value, str):
        return take()
    if isinstance(value, dict):
        return {
            take() if _may_hold_data(name) else name: item
            if name in structure
            else _rebuild(item, take, structure)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_rebuild(item, take, structure) for item in value]
    if _is_long_number(value):
        text = take()
        return value if text == str(value) else text
    return value


def _may_hold_data(name: str) -> bool:
    return not name.replace("_", "a").isalpha()


def _is_long_number(value: Any) -> bool:
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= 10 ** (MIN_NUMBER_DIGITS - 1)
    )


def _last_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    if "text" in row:
        return "", ""
    if "messages" in row:
        *earlier, last = row["messages"]
        return _join(last), _join(earlier)
    return _join(row["completion"]), _join(row["prompt"])


def _join(value: Any) -> str:
    if isinstance(value, dict) and "content" in value:
        value = [value["content"], value.get("tool_calls")]
    return "\n".join(text for text, _ in _texts(value, ""))

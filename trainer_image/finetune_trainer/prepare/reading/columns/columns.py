"""Finds columns that identify rows, that tie rows together, or that give the answer away. Pure.

An identifier makes every prompt different, and the search for duplicates finds none.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.columns.names import (
    COMPLETION_NAMES,
    GROUP_NAMES,
    PROMPT_NAMES,
)
from finetune_trainer.prepare.reading.columns.values import is_missing, write_value

Rows = Sequence[Mapping[str, Any]]

MIN_ROWS = 20
"""With fewer rows, values alone cannot identify an identifier."""

MIN_NAMED_ROWS = 5
"""In fewer rows, a column's name and different values are no evidence either."""

DISTINCT_SHARE = 0.95
"""Share of the values that differ from all others; exports hold some rows twice."""

GIVEAWAY_SHARE = 0.99
"""Share of the rows whose answer a column must predict."""

MIN_ROWS_OF_VALUE = 4
"""Rows that share a value of a giveaway, on average. Texts that occur twice are none."""

_ID_WORD = re.compile("ids?|uuid|guid|sha1|sha256|md5|checksum|idx|rownum|serial|ticket|vorgang")
"""A column that is called so names its row."""
_ID_ENDING = re.compile(
    rf"{_ID_WORD.pattern}|hash|index|key|no|nr|number|num|ref|row|kennung|\w+nummer"
)
"""A noun at the end of the name counts too. Alone, some may be a number or a text."""
_TIED_NOUN = re.compile(
    "account|author|case|client|conversation|customer|dialog|dialogue|document|kunde|order"
    "|patient|session|student|thread|ticket|user(name)?"
)
"""Nouns for owners of several rows."""

_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([.,]\d+)?( ?(Z|UTC|[+-]\d\d:?\d\d))?"
)
_Y, _M, _D = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"({_Y}([-/.]){_M}\2{_D}|{_D}([-/.]){_D}\3{_Y})"
    r"([T ,]+\d\d?:\d\d(:\d\d)?([.,]\d+)?( ?([AaPp][Mm]|Z|UTC|[+-]\d\d:?\d\d))?)?"
)
_DIGEST = re.compile(r"\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?|[0-9a-fA-F]{16,}")
_CODE = re.compile(r"(?=[^0-9]*[0-9])[#A-Za-z0-9][A-Za-z0-9_/.:#-]*")
_QUANTITY = re.compile(
    r"[-+~<>=]{0,2}[^\w\s#]?([A-Z]{3} )?[-+]?([0-9]+([.,:/][0-9]+)*|[.,][0-9]+)([eE][-+]?[0-9]+)?"
    r"\s?[^\W\d]{0,4}\W{0,2}"
)
"""A number, an amount with its unit or currency, a time of the day, a date."""
_INTEGER = re.compile(r"[0-9]+")


def is_identifier(name: str, rows: Rows) -> bool:
    """Return whether a column identifies its row: distinct values that look like record numbers.

    Amounts, quantities and texts are no identifiers.
    """
    if name.lower() in (*PROMPT_NAMES, *COMPLETION_NAMES):
        return False
    values = _present(name, rows)
    if len(values) < MIN_NAMED_ROWS or len(set(values)) < DISTINCT_SHARE * len(values):
        return False
    if all(map(_DIGEST.fullmatch, values)) or all(map(_TIMESTAMP.fullmatch, values)):
        return True
    are_integers = all(map(_INTEGER.fullmatch, values))
    if all(map(_QUANTITY.fullmatch, values)) and not are_integers:
        return False
    if _is_called_identifier(name) and all(" " not in value for value in values):
        return True
    if len(values) < MIN_ROWS:
        return False
    if are_integers:
        return _are_row_numbers(values) or _are_padded(values)
    return all(map(_CODE.fullmatch, values))


def is_date(name: str, rows: Rows) -> bool:
    """Return whether a column holds only dates, with or without a time of the day."""
    values = _present(name, rows)
    return len(values) >= MIN_NAMED_ROWS and all(map(_DATE.fullmatch, values))


def find_group(fields: Sequence[str], rows: Rows) -> str | None:
    """Return the column whose rows belong together, such as those of one customer.

    It has a value in every row; a column with repeats comes first.
    """
    full = [name for name in fields if _is_full(name, rows)]
    named = [name for name in full if name.lower() in GROUP_NAMES]
    tied = [name for name in full if _is_called_tied(name) and _is_tying(name, rows)]
    repeated = [name for name in (*named, *tied) if not is_identifier(name, rows)]
    return next(iter((*repeated, *named)), None)


def find_giveaways(names: Sequence[str], answer: str, rows: Rows) -> dict[str, float]:
    """Return the columns that predict the answer, with the share of predicted rows.

    A row is predicted if most other rows with its value have its answer.
    """
    if len(rows) < MIN_ROWS:
        return {}
    answers = [write_text(row.get(answer)) for row in rows]
    if Counter(answers).most_common(1)[0][1] >= GIVEAWAY_SHARE * len(rows):
        return {}
    found = {}
    for name in names:
        values = [write_text(row.get(name)) for row in rows]
        if MIN_ROWS_OF_VALUE * len(set(values)) <= len(values):
            share = _share_predicted(values, answers)
            if share >= GIVEAWAY_SHARE:
                found[name] = share
    return found


def write_text(value: object) -> str:
    """Return a value as a prompt would hold it; empty where it cannot be written."""
    if is_missing(value):
        return ""
    try:
        return write_value(value, "a value")
    except BadRow:
        return ""


def _share_predicted(values: Sequence[str], answers: Sequence[str]) -> float:
    by_value: dict[str, Counter[str]] = defaultdict(Counter)
    for value, answer in zip(values, answers, strict=True):
        by_value[value][answer] += 1
    num_predicted = sum(
        count - 1 >= max((n for other, n in each.items() if other != answer), default=1)
        for value, answer in zip(values, answers, strict=True)
        for each in (by_value[value],)
        for count in (each[answer],)
    )
    return num_predicted / len(values)


def _present(name: str, rows: Rows) -> list[str]:
    values = [write_text(row.get(name)).strip() for row in rows]
    return [value for value in values if value]


def _words(name: str) -> list[str]:
    """Return the words of a column's name: ``orderId``, ``order_id`` and ``Order ID`` have two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word]


def _is_called_identifier(name: str) -> bool:
    words = _words(name)
    known = _ID_WORD if len(words) == 1 else _ID_ENDING
    return bool(words) and known.fullmatch(words[-1]) is not None


def _is_called_tied(name: str) -> bool:
    match _words(name):
        case [noun]:
            return _TIED_NOUN.fullmatch(noun) is not None
        case [noun, ending]:
            return bool(_TIED_NOUN.fullmatch(noun) and _ID_ENDING.fullmatch(ending))
    return False


def _is_full(name: str, rows: Rows) -> bool:
    return all(row.get(name) is not None and str(row[name]).strip() for row in rows)


def _is_tying(name: str, rows: Rows) -> bool:
    counts = Counter(_present(name, rows))
    return MIN_NAMED_ROWS <= len(counts) < len(rows) and 2 * max(counts.values()) <= len(rows)


def _are_row_numbers(values: Sequence[str]) -> bool:
    """Whether these are all whole numbers of a range, in whichever order; a few may be twice."""
    numbers = set(map(int, values))
    return max(numbers) - min(numbers) < len(values)


def _are_padded(values: Sequence[str]) -> bool:
    """Whether zeros pad the numbers to one length, which amounts never have."""
    return len(set(map(len, values))) == 1 and any(value[0] == "0" for value in values)

"""Rows of one answer and a verdict, wanted or not, for KTO.

SFT refuses them unless the job names a format, because it would learn unwanted answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.columns.values import is_missing
from finetune_trainer.prepare.reading.formats.messages import describe

VERDICT_NAMES = ("label", "kto_tag")
"""Names of the verdict's column; the second is LLaMA-Factory's."""

_WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_BOOLEANS = ("true", "false")
_ANSWERS = (("prompt", "completion"), ("instruction", "output"), ("messages",), ("conversations",))
"""Fields of a row with one answer, of any format."""

Rows = Sequence[Mapping[str, Any]]


def find_verdict(fields: Mapping[str, Any]) -> str | None:
    """Return the column that is called like a verdict, or None."""
    return next((name for name in VERDICT_NAMES if name in fields), None)


def has_answer(fields: Mapping[str, Any]) -> bool:
    """Whether a row has one answer, in the fields of any format."""
    return any(all(name in fields for name in names) for names in _ANSWERS)


def as_verdict(value: object) -> bool | None:
    """Return whether a value means wanted; None if it may mean something else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def read_verdict(value: object, name: str) -> bool:
    """Return whether an answer is wanted: a boolean, 0, 1, `true`, `false`, `yes` or `no`.

    Raises:
        BadRow: It is none of these.
    """
    verdict = as_verdict(value)
    if verdict is not None:
        return verdict
    shown = "missing" if is_missing(value) else describe(value)
    raise BadRow("NoVerdict", f"{name} is {shown}; it must be true (wanted) or false")


def are_verdicts(rows: Rows) -> bool:
    """Whether rows are answers with a verdict, as KTO takes them, and one is unwanted.

    Other text or numbers are a class. A column of 0 and 1 is the number of a label if each answer
    always has the same. A value may be missing now and then.
    """
    column = next((name for name in map(find_verdict, rows) if name is not None), None)
    if column is None or not all(map(has_answer, rows)):
        return False
    values = [fields.get(column) for fields in rows]
    verdicts = [as_verdict(value) for value in values if not is_missing(value)]
    if None in verdicts or False not in verdicts:
        return False
    return any(map(_is_boolean, values)) or not _number_labels(rows, values)


def is_unwanted(fields: Mapping[str, Any]) -> bool:
    """Whether a row says plainly, by a boolean, that its answer is not wanted."""
    name = find_verdict(fields)
    value = fields[name] if name is not None else None
    return _is_boolean(value) and as_verdict(value) is False and has_answer(fields)


def refuse_unwanted(
    convert: Callable[[Mapping[str, Any]], dict[str, Any]], format_name: str
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return ``convert`` with a refusal of unwanted answers; a named format allows them."""

    def convert_wanted(fields: Mapping[str, Any]) -> dict[str, Any]:
        if is_unwanted(fields):
            raise BadRow("UnwantedAnswer", explain_unwanted(fields, format_name))
        return convert(fields)

    return convert_wanted


def explain_unwanted(fields: Mapping[str, Any], format_name: str) -> str:
    """Return why a row with an unwanted answer is no example, and the remedy."""
    return (
        f"{find_verdict(fields)} is false, and objective SFT would learn this answer like the "
        "others; set method.objective: KTO, or leave the row out, or set format: "
        f"{format_name} in its source to learn from all"
    )


def _is_boolean(value: object) -> bool:
    is_word = isinstance(value, str) and value.strip().lower() in _BOOLEANS
    return is_word or isinstance(value, bool)


def _number_labels(rows: Rows, values: Sequence[object]) -> bool:
    """Whether the values only repeat, as numbers, which of a few answers a row has."""
    of_answer: dict[str, set[bool | None]] = {}
    for fields, value in zip(rows, values, strict=True):
        answer = str(next((fields[n[-1]] for n in _ANSWERS if n[-1] in fields), ""))
        of_answer.setdefault(answer, set()).add(as_verdict(value))
    is_few = len(of_answer) <= len(rows) // 2
    return is_few and all(len(found) == 1 for found in of_answer.values())

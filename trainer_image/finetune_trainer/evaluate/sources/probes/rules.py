"""Tells whether an answer follows an instruction, by a rule that needs no judge. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import regex

from finetune_trainer.evaluate.metrics.words import split_words

_ENDS = regex.compile(r"[.!?。！？।؟]+[\"'”’)\]]*(?=\s|$)|[。！？।]")  # noqa: RUF001
_EDGES = " \t\r\n.!?,;:。！？،؟\"'“”„«»*`()"  # noqa: RUF001


def follows(rule: Mapping[str, Any], answer: str) -> bool:
    """Tell whether an answer keeps to a rule of the pack.

    Args:
        rule: One name of a rule with what it asks for, as ``{"mostWords": 5}``.
        answer: What a model said.

    Raises:
        KeyError: There is no such rule.
    """
    ((name, wanted),) = rule.items()
    return bool(answer.strip()) and _RULES[name](answer.strip(), wanted)


def _one_of(answer: str, wanted: list[str]) -> bool:
    return answer.strip(_EDGES).casefold() in wanted


def _most_words(answer: str, wanted: int) -> bool:
    return 0 < len(split_words(answer)) <= wanted


def _most_sentences(answer: str, wanted: int) -> bool:
    ends = len(_ENDS.findall(answer))
    is_open = _ENDS.sub("\n", answer).rstrip(" ")[-1:] not in ("\n", "")
    return ends + is_open <= wanted


def _matches(answer: str, wanted: str) -> bool:
    return regex.fullmatch(wanted, answer.rstrip("."), regex.DOTALL, timeout=1.0) is not None


def _is_lower(answer: str, wanted: bool) -> bool:
    return answer == answer.lower() and any(map(str.isalpha, answer))


def _is_upper(answer: str, wanted: bool) -> bool:
    return answer == answer.upper() and any(map(str.isalpha, answer))


def _begins(answer: str, wanted: str) -> bool:
    return answer.lstrip(_EDGES).casefold().startswith(wanted)


def _ends(answer: str, wanted: str) -> bool:
    return answer.rstrip(_EDGES).casefold().endswith(wanted)


def _contains(answer: str, wanted: list[str]) -> bool:
    return all(text.casefold() in answer.casefold() for text in wanted)


def _lacks(answer: str, wanted: list[str]) -> bool:
    return not any(text.casefold() in answer.casefold() for text in wanted)


def _lines(answer: str, wanted: int) -> bool:
    return len([line for line in answer.splitlines() if line.strip()]) == wanted


def _json_keys(answer: str, wanted: list[str]) -> bool:
    text = regex.sub(r"^```(?:json)?\s*|\s*```$", "", answer)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and sorted(value) == sorted(wanted)


def _script(answer: str, wanted: str) -> bool:
    letters = regex.findall(r"\p{L}", answer)
    there = regex.findall(rf"\p{{Script={wanted}}}", answer)
    return 2 * len(there) > len(letters) > 0


_RULES: Mapping[str, Callable[[str, Any], bool]] = {
    "oneOf": _one_of,
    "mostWords": _most_words,
    "mostSentences": _most_sentences,
    "matches": _matches,
    "isLower": _is_lower,
    "isUpper": _is_upper,
    "begins": _begins,
    "ends": _ends,
    "contains": _contains,
    "lacks": _lacks,
    "lines": _lines,
    "jsonKeys": _json_keys,
    "script": _script,
}

"""Defines equal rows: those of equal texts. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from finetune_trainer.data.answers.values import read_json_value
from finetune_trainer.data.normal import normalise_text
from finetune_trainer.data.rows import prompt_of

DIGEST_BYTES = 16
MAX_LABEL_CHARACTERS = 64
MAX_LABEL_WORDS = 6

_NUMBERS = Context(prec=100, traps=[])
_dump = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True).encode


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalRow:
    """The compared parts of a row.

    Attributes:
        prompt: Its input as one normalised line: all turns before the last answer, or the text.
        prompt_digest: Of this line and the tools; equal for equal prompts in any shape.
        row_digest: Of the whole row.
        answer_digest: Of everything except the prompt; equal for equal answers in any shape, and
            for JSON of the same value.
        is_label: The answer is so short that another one to the same prompt contradicts it.
        turns: Digests as ``prompt_digest`` of what stands before each earlier learned answer.
    """

    prompt: str
    prompt_digest: bytes
    row_digest: bytes
    answer_digest: bytes
    is_label: bool
    turns: tuple[bytes, ...]


def normalise_row(row: Mapping[str, Any]) -> NormalRow:
    """Return the compared parts of a canonical row."""
    normal = _normalise(row)
    prompt = _text_of(prompt_of(normal))
    rest = json_answer(row)
    if rest is None:  # an empty object is an answer
        rest = _last_of(normal)
    if rest is None:
        rest = {name: value for name, value in normal.items() if name not in ("prompt", "text")}
    answer = _answer_of(normal)
    before = earlier_learned(normal)
    messages = _messages_of(normal) if before else []
    return NormalRow(
        prompt=prompt,
        prompt_digest=_prompt_digest(prompt, normal),
        row_digest=_digest(_dump(normal), DIGEST_BYTES),
        answer_digest=_digest(_dump(rest), 8),
        is_label=bool(answer)
        and len(answer) <= MAX_LABEL_CHARACTERS
        and answer.count(" ") < MAX_LABEL_WORDS,
        turns=tuple(_prompt_digest(_text_of(messages[:place]), normal) for place in before),
    )


def earlier_learned(row: Mapping[str, Any]) -> list[int]:
    """Return the places of the learned answers of a conversation before its last one."""
    messages = _messages_of(row)
    start = len(row["prompt"]) if messages and "messages" not in row else 0
    return [
        place
        for place in range(start, len(messages) - 1)
        if messages[place].get("role") == "assistant" and messages[place].get("weight", 1) != 0
    ]


def earlier_questions(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what each answer of :func:`earlier_learned` answers, normalised.

    The first text is what has been said since the answer before, the second one all of it.
    """
    messages = _normalise(_messages_of(row))
    asked = []
    for place in earlier_learned(row):
        roles = [message.get("role") for message in messages[:place]]
        start = place - roles[::-1].index("assistant") if "assistant" in roles else 0
        asked.append((_text_of(messages[start:place]), _text_of(messages[:place])))
    return asked


def silence(row: dict[str, Any], places: Collection[int]) -> dict[str, Any]:
    """Return a conversation whose messages at these places have weight 0: none is learned."""
    messages = [
        {**message, "weight": 0} if place in places else message
        for place, message in enumerate(_messages_of(row))
    ]
    if "messages" in row:
        return {**row, "messages": messages}
    return {**row, "completion": messages[len(row["prompt"]) :]}


def _messages_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "messages" in row:
        return list(row["messages"])
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        return [*row["prompt"], *row["completion"]]
    return []


def _prompt_digest(prompt: str, row: Mapping[str, Any]) -> bytes:
    return _digest(_dump([prompt, row.get("tools")]), DIGEST_BYTES)


def _normalise(value: Any) -> Any:
    if isinstance(value, str):
        return normalise_text(value)
    if isinstance(value, Decimal):
        return f"number {_NUMBERS.normalize(value)}"
    if isinstance(value, Mapping):
        return {name: _normalise(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_normalise(item) for item in value]
    return value


def _text_of(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return " ".join(filter(None, (str(message.get("content") or "") for message in prompt)))


def answer_text(row: Mapping[str, Any]) -> str:
    """Return the normalised answer of a canonical row; empty where it is more than one text."""
    return normalise_text(_answer_of(row))


def json_answer(row: Mapping[str, Any]) -> Any:
    """Return the answer of a canonical row if it is a JSON object or list, else None.

    Its texts and numbers are normalised, its names are not. A value that is nested too deeply is
    None.
    """
    value = read_json_value(_answer_of(row))
    try:
        return _normalise(value) if isinstance(value, dict | list) else None
    except RecursionError:
        return None


def _answer_of(row: Mapping[str, Any]) -> str:
    """Return the one answer of a row; empty for text, tool calls, preferences and verdicts."""
    last = _last_of(row)
    if last is None or isinstance(last, str):
        return last or ""
    return "" if "tool_calls" in last else str(last.get("content") or "")


def _last_of(row: Mapping[str, Any]) -> Any:
    """Return the last answer, a message or a string; None for text, preferences and verdicts."""
    if "text" in row or "rejected" in row or "label" in row:
        return None
    last = row["messages"][-1] if "messages" in row else row["completion"]
    return last[-1] if isinstance(last, list) else last


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()

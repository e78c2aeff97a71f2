"""Defines equal rows: without Unicode form, case, whitespace, punctuation at the ends. Pure."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.rows import prompt_of

DIGEST_BYTES = 16
MAX_LABEL_CHARACTERS = 64
MAX_LABEL_WORDS = 6

_EDGES = " .,;:!?\"'`¿¡。、«»"
_UNIFORM = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad"),
    }
)
_dump = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True).encode


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalRow:
    """The compared parts of a row.

    Attributes:
        prompt: Its input as one normalised line: all turns before the last answer, or the text.
        prompt_digest: Of this line and the tools; equal for equal prompts in any shape.
        row_digest: Of the whole row.
        answer_digest: Of everything except the prompt.
        is_label: The answer is so short that another one to the same prompt contradicts it.
    """

    prompt: str
    prompt_digest: bytes
    row_digest: bytes
    answer_digest: bytes
    is_label: bool


def normalise_text(text: str) -> str:
    """Normalise a text for comparison, on one line.

    NFKC, case folded, plain quotes and dashes, no invisible characters, single blanks, no sentence
    punctuation at the ends, unless there is nothing else.
    """
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", text.translate(_UNIFORM)).casefold()
    line = " ".join(text.split())
    return line.strip(_EDGES) or line


def normalise_row(row: Mapping[str, Any]) -> NormalRow:
    """Return the compared parts of a canonical row."""
    normal = _normalise(row)
    prompt = _text_of(prompt_of(normal))
    rest = {name: value for name, value in normal.items() if name not in ("prompt", "text")}
    if "messages" in normal:
        rest = normal["messages"][-1]
    answer = _answer_of(normal)
    return NormalRow(
        prompt=prompt,
        prompt_digest=_digest(_dump([prompt, normal.get("tools")]), DIGEST_BYTES),
        row_digest=_digest(_dump(normal), DIGEST_BYTES),
        answer_digest=_digest(_dump(rest), 8),
        is_label=bool(answer)
        and len(answer) <= MAX_LABEL_CHARACTERS
        and answer.count(" ") < MAX_LABEL_WORDS,
    )


def _normalise(value: Any) -> Any:
    if isinstance(value, str):
        return normalise_text(value)
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


def _answer_of(row: Mapping[str, Any]) -> str:
    """Return the one answer of a row; empty for text, tool calls, preferences and verdicts."""
    if "text" in row or "rejected" in row or "label" in row:
        return ""
    last = row["messages"][-1] if "messages" in row else row["completion"]
    if isinstance(last, list):
        last = last[-1]
    if isinstance(last, str):
        return last
    return "" if "tool_calls" in last else str(last.get("content") or "")


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()

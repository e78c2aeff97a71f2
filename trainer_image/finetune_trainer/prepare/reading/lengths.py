"""Estimate how many tokens a row has, where no tokenizer is at hand. Pure.

A length limit that is too short makes ``prepare`` refuse the data, one that is too long costs
little: so this errs on the long side. Tokenizers hold three to six letters of a word in a token and
often one digit or sign; a character of three bytes is at most two tokens in all but the oldest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LETTERS_PER_TOKEN = 3
BLANKS_PER_TOKEN = 3
MESSAGE_TOKENS = 8
"""Tokens of a chat template around a message."""
PROMPT_TOKENS = 48
"""Tokens before the first message: a system message, a date."""

OUTLIER_TIMES = 8
"""So much longer than all others is a row that should not decide the limit,"""
OUTLIER_TOKENS = 4096
"""if it is as long as this; below, a limit that all fit costs little."""
FEW_ROWS = 20

_WORDS = re.compile(r"[A-Za-z]+")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLength:
    """A row's place and its length in tokens."""

    file: str
    line: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bulk:
    """Rows without those that are far longer than all others.

    Attributes:
        longest: Tokens of the longest of them.
        outliers: The others, in their order.
    """

    longest: int
    outliers: tuple[RowLength, ...] = ()


def part_outliers(rows: Sequence[RowLength]) -> Bulk:
    """Part the few rows that are far longer than all others from them.

    Args:
        rows: At least one.
    """
    limit = find_limit([row.num_tokens for row in rows])
    return Bulk(longest=limit, outliers=tuple(row for row in rows if row.num_tokens > limit))


def find_limit(lengths: Sequence[int]) -> int:
    """Return the length of the longest row that is not far longer than all others.

    One row of a million tokens would otherwise decide the memory of every batch. At most one row
    in a hundred is longer than the limit, and none of few: of these each may count.

    Args:
        lengths: Of all rows in tokens; at least one.
    """
    ordered = sorted(lengths)
    num_spare = max(1, len(ordered) // 100) if len(ordered) >= FEW_ROWS else 0
    for number in range(num_spare, 0, -1):
        limit, above = ordered[-number - 1], ordered[-number]
        if above >= OUTLIER_TOKENS and above > OUTLIER_TIMES * limit:
            return limit
    return ordered[-1]


def estimate_tokens(row: Mapping[str, Any]) -> int:
    """Return an upper estimate of a canonical row's length in tokens.

    Args:
        row: As :class:`finetune_trainer.data.rows.Example` has it.
    """
    if "text" in row:
        return _count(row["text"]) + 1
    tools = _count(json.dumps(row["tools"])) if "tools" in row else 0
    start = 0 if isinstance(row.get("prompt"), str) else PROMPT_TOKENS
    if "messages" in row:
        return tools + start + _measure(row["messages"])
    answers = [row[name] for name in ("completion", "rejected") if name in row]
    return tools + start + _measure(row["prompt"]) + max(map(_measure, answers))


def _measure(value: Any) -> int:
    if isinstance(value, str):
        return _count(value) + 1
    return sum(MESSAGE_TOKENS + _measure_message(message) for message in value)


def _measure_message(message: Mapping[str, Any]) -> int:
    texts = [
        value if isinstance(value, str) else json.dumps(value)
        for key, value in message.items()
        if key not in ("role", "weight")
    ]
    return sum(map(_count, texts))


def _count(text: str) -> int:
    # The rest of a word is a token of its own.
    words = sum(-(-len(word) // LETTERS_PER_TOKEN) for word in _WORDS.findall(text))
    blanks = sum(len(gap) // BLANKS_PER_TOKEN for gap in _BLANKS.findall(text))
    rest = _BLANKS.sub("", _WORDS.sub("", text))
    num_bytes = len(rest.encode("utf-8", "surrogatepass"))
    num_ascii = sum(map(str.isascii, rest))
    return words + blanks + num_ascii + -(-2 * (num_bytes - num_ascii) // 3)

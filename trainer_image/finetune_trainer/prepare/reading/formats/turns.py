"""Reads ShareGPT turns: `from` and `value`, with LLaMA-Factory's tool calls.

A call is a turn of `function_call` with JSON text, its answer a turn of `observation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_trainer.prepare.reading.formats.messages import (
    SHAREGPT_ROLES,
    Message,
    read_json_text,
    read_messages,
)
from finetune_trainer.prepare.reading.formats.tools import read_call_text

CALL_ROLE = "function_call"

_ROLES: Mapping[str, str] = {**SHAREGPT_ROLES, CALL_ROLE: "assistant", "observation": "tool"}
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


def read_turns(value: object, name: str) -> list[Message]:
    """Return the messages of a conversation, their order not checked.

    ``value`` holds ``from`` and ``value``, or ``role`` and ``content``, or is JSON text of them.

    Raises:
        BadRow: It is neither.
    """
    turns = read_json_text(value, name)
    if are_messages(turns):
        return read_messages(turns, name)
    if isinstance(turns, list):
        turns = [_read_call(turn, f"{name}[{number}]") for number, turn in enumerate(turns)]
    return read_messages(turns, name, roles=_ROLES, role_key="from", content_key="value")


def are_messages(value: object) -> bool:
    """Whether a list is a conversation, and not an answer that is a JSON list."""
    return isinstance(value, list) and any(
        isinstance(entry, dict) and "role" in entry for entry in value
    )


def read_answer(value: Any, name: str) -> Any:
    """Return an answer that is written as turns as messages; other answers unchanged.

    Raises:
        BadRow: It is a list of turns that cannot be read.
    """
    if not are_turns(value):
        return value
    turns = [value] if isinstance(value, dict) else value
    return turns if are_messages(turns) else read_turns(turns, name)


def are_turns(value: object) -> bool:
    """Whether a value is a turn of a conversation of either shape, or a list of them."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(map(_is_turn, turns))


def open_request(prompt: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return messages and request of an OpenAI request; another prompt unchanged."""
    if isinstance(prompt, dict) and are_messages(prompt.get("messages")):
        return prompt["messages"], prompt
    return prompt, {}


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and ({"from", "value"} <= set(value) or "role" in value)


def _read_call(turn: Any, where: str) -> Any:
    """Return a turn that calls tools as one of the assistant's; any other as it is."""
    if not isinstance(turn, dict) or turn.get("from") != CALL_ROLE:
        return turn
    text, thought = turn.get("value"), None
    if isinstance(text, str) and (found := _THOUGHT.fullmatch(text)):
        thought, text = found[1].strip(), found[2]
    return {
        **turn,
        "value": None,
        "reasoning_content": thought,
        "tool_calls": read_call_text(text, f"{where}.value"),
    }

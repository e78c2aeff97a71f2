"""Check conversations: roles, order and content of messages.

A conversation is an optional system message, then user and assistant in turns, ending with the
assistant. Chat templates of common models (Llama 2, Mistral, Gemma) refuse any other order, and
they do so only when training has begun.

An answer of OpenAI's `weight: 0` stands in the conversation and is not learned: its message keeps
the key `weight` with the value 0. What follows the last answer that counts is left out, for nothing
after it could be learned, and an evaluation would ask for an answer that nobody wants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.rows import BadRow

Message = dict[str, Any]
"""`role` and `content`, both text; `weight` with the value 0 on an answer that is not learned."""

CHAT_ROLES: Mapping[str, str] = {"system": "system", "user": "user", "assistant": "assistant"}
SHAREGPT_ROLES: Mapping[str, str] = {
    **CHAT_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TOOL_ROLES = frozenset(
    {"tool", "function", "function_call", "function_response", "observation", "tool_call"}
)


def read_text(value: object, name: str) -> str:
    """Return a field that must be text and must not be blank.

    Raises:
        BadRow: It is missing, blank, or of another type.
    """
    if value is None:
        raise BadRow("MissingField", f"{name} is missing")
    if not isinstance(value, str):
        raise BadRow("NotText", f"{name} is {describe(value)}; it must be text: put a string there")
    if not value.strip():
        raise BadRow("EmptyText", f"{name} is empty")
    return value


def read_messages(
    value: object,
    name: str,
    *,
    roles: Mapping[str, str] = CHAT_ROLES,
    role_key: str = "role",
    content_key: str = "content",
) -> list[Message]:
    """Return messages with nothing but role, content and a weight of 0, their order not checked.

    Args:
        value: What the row holds.
        name: Field it was found in, for messages.
        roles: Accepted roles and what they become.
        role_key: Key of the role in one message.
        content_key: Key of the content in one message.

    Raises:
        BadRow: It is no list of messages, a role or weight is unknown, or a content is not text.
    """
    if value is None:
        raise BadRow("MissingField", f"{name} is missing")
    if not isinstance(value, list) or not value:
        raise BadRow(
            "NotMessages", f"{name} is {describe(value)}; expected a list of at least one message"
        )
    messages = []
    for number, entry in enumerate(value):
        where = f"{name}[{number}]"
        if not isinstance(entry, dict):
            raise BadRow(
                "NotMessages",
                f"{where} is {describe(entry)}; expected an object with {role_key}, {content_key}",
            )
        role = _read_role(entry, where, roles, role_key)
        content = entry.get(content_key)
        if role == "assistant" and isinstance(content, str) and not content.strip():
            raise BadRow("EmptyAnswer", f"{where} is an empty answer of the assistant")
        message: Message = {"role": role, "content": read_text(content, f"{where}.{content_key}")}
        if role == "assistant" and not _is_learned(entry.get("weight"), f"{where}.weight"):
            message["weight"] = 0
        messages.append(message)
    return messages


def end_at_last_learned(messages: list[Message], name: str) -> list[Message]:
    """Return the messages up to the last answer that is learned.

    Args:
        messages: A conversation whose order is right.
        name: Field it was found in, for messages.

    Raises:
        BadRow: Every answer has weight 0.
    """
    for end in range(len(messages), 0, -1):
        last = messages[end - 1]
        if last["role"] == "assistant" and "weight" not in last:
            return messages[:end]
    raise BadRow(
        "NothingToLearn",
        f"every answer of {name} has weight 0, so there is nothing to learn; give one of them "
        "weight 1, or leave the row out",
    )


def check_conversation(messages: list[Message], name: str) -> None:
    """Check the order of a whole conversation.

    Raises:
        BadRow: A role is out of turn, or the last message is not the assistant's.
    """
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    offset = len(messages) - len(turns)
    for index, message in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            raise BadRow(
                "WrongRoleOrder",
                f"{name}[{index + offset}] is from {message['role']}, expected {expected}: after "
                "an optional system message, user and assistant take turns",
            )
    if not turns or turns[-1]["role"] != "assistant":
        raise BadRow(
            "NoAnswer",
            f"the last message of {name} is from {messages[-1]['role']}; it must be the answer to "
            "learn, from the assistant",
        )


def add_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put the source's system message before a conversation.

    Raises:
        BadRow: The row has a system message of its own: only one of the two can be meant.
    """
    if system is None:
        return messages
    if messages and messages[0]["role"] == "system":
        raise BadRow(
            "TwoSystemMessages",
            "the row has its own system message and the source sets `system`; remove one of them",
        )
    return [{"role": "system", "content": system}, *messages]


def describe(value: object) -> str:
    """Name the type of a value, never the value: messages go where rows must not."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    if isinstance(value, dict):
        return "an object"
    return "text" if isinstance(value, str) else f"of type {type(value).__name__}"


def _is_learned(weight: object, where: str) -> bool:
    # A table may hold weights as floats, and NaN where a message has none.
    if weight is None or weight != weight:
        return True
    if not isinstance(weight, bool) and weight in (0, 1):
        return weight == 1
    raise BadRow(
        "UnknownWeight",
        f"{where} is {describe(weight)}; it must be 1 (learn this answer) or 0 (do not)",
    )


def _read_role(entry: dict[str, Any], where: str, roles: Mapping[str, str], role_key: str) -> str:
    role = entry.get(role_key)
    if role in TOOL_ROLES or entry.get("tool_calls") or entry.get("function_call"):
        raise BadRow(
            "ToolMessage",
            f"{where} is a tool call or a tool's answer; tool use cannot be trained here yet, "
            "remove such rows",
        )
    if not isinstance(role, str) or role not in roles:
        raise BadRow(
            "UnknownRole", f"{where}.{role_key} is {_describe_role(role)}; use {', '.join(roles)}"
        )
    return roles[role]


def _describe_role(role: object) -> str:
    """Quote what may be the name of a role; anything else may be the row's text."""
    if role is None:
        return "missing"
    if isinstance(role, str) and re.fullmatch(r"[A-Za-z_-]{1,20}", role):
        return repr(role)
    return f"no role but {describe(role)}"

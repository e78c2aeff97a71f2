"""Checks conversations: roles, order and content of messages.

A conversation is an optional system message, then user and assistant in turns; it ends with the
assistant. Tool calls get their answers first. Chat templates refuse any other order, but only in
training. An answer with OpenAI's `weight: 0` stays in the conversation and is not learned. Messages
after the last learned answer are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.formats.tools import read_tool_calls

Message = dict[str, Any]
"""`role` and `content`, both text; of an assistant also `reasoning_content`, `tool_calls` (then
`content` may be empty) and `weight` with the value 0 on an answer that is not learned; of a tool
also `name` and `tool_call_id`."""

_PLAIN_ROLES: Mapping[str, str] = {"system": "system", "user": "user", "assistant": "assistant"}
CHAT_ROLES: Mapping[str, str] = {**_PLAIN_ROLES, "developer": "developer", "tool": "tool"}
SHAREGPT_ROLES: Mapping[str, str] = {
    **_PLAIN_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TOOL_ROLES = frozenset(
    {"tool", "function", "function_call", "function_response", "observation", "tool_call"}
)
SYSTEM_ROLES = frozenset({"system", "developer"})

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_text(value: object, name: str) -> str:
    """Return a field that must be text and must not be blank, or raise ``BadRow``."""
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
    """Return messages as :data:`Message`, their order not checked.

    Args:
        value: The row's messages.
        name: Their field, for messages.
        roles: Accepted roles and their canonical names.
        role_key: Key of the role in one message.
        content_key: Key of the content in one message.

    Raises:
        BadRow: It is no list of messages, a role or weight is unknown, or a content is not text.
    """
    if value is None:
        raise BadRow("MissingField", f"{name} is missing")
    value = read_json_text(value, name)
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
        content = join_parts(entry.get(content_key), f"{where}.{content_key}")
        if role == "assistant":
            messages.append(_read_answer(entry, content, where, f"{where}.{content_key}"))
        elif role == "tool":
            messages.append(_read_tool_answer(entry, content, f"{where}.{content_key}"))
        else:
            messages.append({"role": role, "content": read_text(content, f"{where}.{content_key}")})
    return messages


def read_json_text(value: object, name: str) -> object:
    """Return the list that JSON text of a cell holds; other values unchanged.

    Raises:
        BadRow: It begins like a list and is not JSON.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        words = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise BadRow(
            "NotMessages", f"{name} is a list in text that is not JSON: {words}"
        ) from error


def join_parts(content: object, name: str) -> object:
    """Join the text of content in parts, or raise ``BadRow``; other content is unchanged."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        is_text = kind is None or (isinstance(kind, str) and kind in _TEXT_PARTS)
        if not is_text or not isinstance(text, str):
            shown = repr(kind) if _may_be_name(kind) else describe(part)
            raise BadRow(
                "NotText",
                f"{name} has a part of type {shown}; only text can be trained, leave the row out",
            )
        texts.append(text)
    return "".join(texts)


def _read_answer(entry: dict[str, Any], content: object, where: str, name: str) -> Message:
    calls = entry.get("tool_calls")
    if isinstance(content, str) and not content.strip() and not calls:
        raise BadRow("EmptyAnswer", f"{where} is an empty answer of the assistant")
    # Templates add text to calls by `+`: null fails where an empty text does not.
    text = "" if calls and content in (None, "") else read_text(content, name)
    message: Message = {"role": "assistant", "content": text}
    reasoning = next((entry[key] for key in _REASONING_KEYS if entry.get(key)), None)
    if reasoning is not None:
        message["reasoning_content"] = read_text(reasoning, f"{where}.reasoning_content")
    if calls:
        message["tool_calls"] = read_tool_calls(calls, f"{where}.tool_calls")
    if not _is_learned(entry.get("weight"), f"{where}.weight"):
        message["weight"] = 0
    return message


def _read_tool_answer(entry: dict[str, Any], content: object, name: str) -> Message:
    text = "" if content == "" else read_text(content, name)
    kept = {key: str(entry[key]) for key in ("name", "tool_call_id") if entry.get(key)}
    return {"role": "tool", "content": text, **kept}


def end_at_last_learned(messages: list[Message], name: str) -> list[Message]:
    """Return the messages up to the last learned answer of a checked conversation.

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
    """Check the order of a whole conversation; it ends with the assistant. Raise ``BadRow``."""
    turns = messages[1:] if messages[0]["role"] in SYSTEM_ROLES else messages
    offset = len(messages) - len(turns)
    expected: tuple[str, ...] = ("user",)
    for index, message in enumerate(turns):
        if message["role"] not in expected:
            raise BadRow(
                "WrongRoleOrder",
                f"{name}[{index + offset}] is from {message['role']}, expected "
                f"{' or '.join(expected)}: after an optional system message, user and assistant "
                "take turns, and tools answer the assistant's calls",
            )
        expected = _roles_after(message)
    if not turns or turns[-1]["role"] != "assistant":
        raise BadRow(
            "NoAnswer",
            f"the last message of {name} is from {messages[-1]['role']}; it must be the answer to "
            "learn, from the assistant",
        )


def _roles_after(message: Message) -> tuple[str, ...]:
    if message["role"] == "assistant":
        return ("tool",) if message.get("tool_calls") else ("user",)
    return ("assistant", "tool") if message["role"] == "tool" else ("assistant",)


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
    is_tool = isinstance(role, str) and role in TOOL_ROLES and role not in roles
    if is_tool or entry.get("function_call"):
        raise BadRow(
            "ToolMessage",
            f"{where} is a tool call or a tool's answer in a shape that is not known here; write "
            "calls as tool_calls of the assistant and answers as role tool, in format Chat",
        )
    if not isinstance(role, str) or role not in roles:
        raise BadRow(
            "UnknownRole", f"{where}.{role_key} is {_describe_role(role)}; use {', '.join(roles)}"
        )
    return roles[role]


def _may_be_name(value: object) -> bool:
    """Whether a text may be the name of a role or type, which messages may quote."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z_-]{1,20}", value) is not None


def _describe_role(role: object) -> str:
    """Quote a possible name of a role; other text may be the row's."""
    if role is None:
        return "missing"
    if _may_be_name(role):
        return repr(role)
    return f"no role but {describe(role)}"

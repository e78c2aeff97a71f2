"""Read tools and calls of tools in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.rows import BadRow

Tool = dict[str, Any]


def with_tools(row: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a canonical row with the tools that its fields offer, or raise ``BadRow``."""
    tools = read_tools(fields.get("tools")) or read_functions(fields.get("functions"))
    return {**row, "tools": tools} if tools else row


def read_tools(value: object) -> list[Tool]:
    """Return the tools of a row, a list or JSON text; an empty list without tools.

    Raises:
        BadRow: It is no list of functions with names.
    """
    if isinstance(value, str) and value.strip():
        value = _parse(value, "tools")
    if value in (None, "", []):
        return []
    if isinstance(value, list):
        value = [_wrap(entry) for entry in value]
    if not isinstance(value, list) or not all(map(_is_tool, value)):
        raise BadRow(
            "InvalidTools",
            "tools must be a list of {type: function, function: {name, description, parameters}}",
        )
    return [_without_nulls(tool) for tool in value]


def read_functions(value: object) -> list[Tool]:
    """Return the tools of a row under OpenAI's older name `functions`.

    Raises:
        BadRow: It is no list of functions with names.
    """
    if isinstance(value, str) and value.strip():
        value = _parse(value, "functions")
    if value in (None, "", []):
        return []
    entries = value if isinstance(value, list) else [value]
    return read_tools([{"type": "function", "function": entry} for entry in entries])


def read_call_text(value: object, where: str) -> list[dict[str, Any]]:
    """Return calls in OpenAI's shape, from `{name, arguments}` or a list of them.

    Raises:
        BadRow: The value is neither, nor JSON text of them.
    """
    if isinstance(value, str):
        value = _parse(value, where)
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise BadRow(
            "InvalidToolCall", f"{where} must be JSON of {{name, arguments}}, or a list of them"
        )
    calls = [{"type": "function", "function": entry} for entry in entries]
    return read_tool_calls(calls, where)


def read_tool_calls(value: object, where: str) -> list[dict[str, Any]]:
    """Return the calls of an assistant's message, their arguments as objects.

    OpenAI's wire format has JSON text for arguments; chat templates write objects.

    Raises:
        BadRow: It is no list of calls, or the arguments are no JSON object.
    """
    if not isinstance(value, list):
        raise BadRow("InvalidToolCall", f"{where} must be a list of calls")
    calls = []
    for number, entry in enumerate(value):
        place = f"{where}[{number}]"
        if not _is_tool(entry):
            raise BadRow(
                "InvalidToolCall",
                f"{place} must be {{id, type: function, function: {{name, arguments}}}}",
            )
        function = entry["function"]
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = _parse(arguments, f"{place}.function.arguments")
        if not isinstance(arguments, dict):
            raise BadRow(
                "InvalidToolCall", f"{place}.function.arguments must be a JSON object, or its text"
            )
        call = {
            "type": "function",
            "function": {"name": function["name"], "arguments": _without_nulls(arguments)},
        }
        calls.append({"id": str(entry["id"]), **call} if entry.get("id") else call)
    return calls


def _wrap(entry: Any) -> Any:
    """Wrap a bare function of LLaMA-Factory in OpenAI's shape."""
    if not isinstance(entry, dict) or "function" in entry or not {"name", "parameters"} <= {*entry}:
        return entry
    function = {key: value for key, value in entry.items() if key != "type"}
    return {"type": "function", "function": function}


def _is_tool(value: object) -> bool:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return isinstance(name, str) and bool(name)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRow("InvalidToolCall", f"{where} is not valid JSON: {error}") from error


def _without_nulls(value: Any) -> Any:
    # Tables give every row the fields of all rows, with null where a row has none.
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value

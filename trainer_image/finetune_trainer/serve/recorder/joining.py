"""Join the events of a streamed answer to the body that a plain answer would have had. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_ONCE = frozenset(("role", "type", "id"))
"""Strings of a delta that are sent once, and not piece by piece."""


def join_stream(data: bytes) -> dict[str, Any] | None:
    """Return the whole answer; None if the stream reports an error or has no choice."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for event in _events(data):
        if "error" in event:
            return None
        head.setdefault("model", event.get("model"))
        usage = event.get("usage") or usage
        found = event.get("choices")
        for each in found if isinstance(found, list) else ():
            if isinstance(each, dict):
                index = each.get("index")
                _add(choices.setdefault(index if isinstance(index, int) else 0, {}), each)
    if not choices:
        return None
    is_chat = any("message" in choice for choice in choices.values())
    return {
        "object": "chat.completion" if is_chat else "text_completion",
        **head,
        "choices": [{"index": index, **choices[index]} for index in sorted(choices)],
        "usage": usage,
    }


def _add(choice: dict[str, Any], event: Mapping[str, Any]) -> None:
    delta, text = event.get("delta"), event.get("text")
    if isinstance(delta, dict):
        _merge(choice.setdefault("message", {"role": "assistant", "content": None}), delta)
    if isinstance(text, str):
        choice["text"] = choice.get("text", "") + text
    choice["finish_reason"] = event.get("finish_reason") or choice.get("finish_reason")


def _merge(into: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        known = into.get(name)
        if isinstance(value, str):
            into[name] = known + value if isinstance(known, str) and name not in _ONCE else value
        elif isinstance(value, dict):
            into[name] = known if isinstance(known, dict) else {}
            _merge(into[name], value)
        elif isinstance(value, list):
            into[name] = known if isinstance(known, list) else []
            _merge_list(into[name], value)
        elif value is not None and name != "index":
            into[name] = value


def _merge_list(into: list[Any], items: list[Any]) -> None:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, int):
            into.append(item)
        elif 0 <= index < len(into) and isinstance(into[index], dict):
            _merge(into[index], item)
        else:
            into.append({})
            _merge(into[-1], item)


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        if line.startswith(b"data:"):
            try:
                event = orjson.loads(line[5:].strip())
            except ValueError:
                continue  # [DONE]
            if isinstance(event, dict):
                yield event

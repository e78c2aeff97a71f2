"""Captured answers and feedback in the shapes of OpenAI's API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_trainer.traffic.rows import Exchange, Feedback, write_time


def completion_of(row: Exchange, entries: Sequence[Feedback]) -> dict[str, Any]:
    """Return a stored chat completion; its metadata is that of the latest entry.

    Fields that OpenAI's shape does not have: ``request``, ``version`` and ``feedback``.
    """
    choices = row.answer.get("choices") or [{"index": 0, "finish_reason": row.finish_reason}]
    return {
        "id": f"chatcmpl-{row.id}",
        "object": "chat.completion",
        "created": int(row.time.timestamp()),
        "model": row.endpoint,
        "choices": [
            {
                "index": choice.get("index", 0),
                "message": choice.get("message")
                or {"role": "assistant", "content": choice.get("text", "")},
                "finish_reason": choice.get("finish_reason") or "stop",
                "logprobs": None,
            }
            for choice in choices
        ],
        "usage": row.answer.get("usage") or None,
        "metadata": _metadata(entries[-1]) if entries else {},
        "request": row.request,
        "version": row.version,
        "feedback": [entry_of(entry) for entry in entries],
    }


def messages_of(row: Exchange) -> dict[str, Any]:
    """Return the messages of the request, as a list of OpenAI's API."""
    data = [
        {"id": f"chatcmpl-{row.id}-{number}", **message}
        for number, message in enumerate(row.messages)
    ]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": False,
    }


def entry_of(entry: Feedback) -> dict[str, Any]:
    """Return an entry."""
    return {
        "object": "feedback",
        "id": f"chatcmpl-{entry.id}",
        "version": entry.version,
        "time": write_time(entry.time),
        "who": entry.who,
        **_metadata(entry),
    }


def _metadata(entry: Feedback) -> dict[str, str]:
    given = {"rating": entry.rating, "correction": entry.correction, "reason": entry.reason}
    return {
        **(entry.metadata or {}),
        **{name: value for name, value in given.items() if value is not None},
    }

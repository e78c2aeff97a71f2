"""Make rows of what the front hands over, without personal data and secrets. Pure.

A row is made of whole texts: of a stream, all events are joined before they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from finetune_trainer.prepare.privacy.finding import Settings
from finetune_trainer.prepare.privacy.redaction import redact_text, redact_value
from finetune_trainer.serve.bodies import FIELDS
from finetune_trainer.serve.handover import Frame
from finetune_trainer.serve.recorder.joining import join_stream
from finetune_trainer.traffic.rows import Exchange

SETTINGS = Settings()
"""All kinds and countries are looked for."""
_USERS = ("user", "safety_identifier")
_TOKEN_FIELDS = ("logprobs", "token_ids", "prompt_logprobs")
"""They hold the texts again in pieces, in which nothing can be recognised."""


def make_row(frame: Frame, hash_person: Callable[[str, str, str], str]) -> Exchange:
    """Return the row of an answer.

    Args:
        frame: What the front hands over.
        hash_person: Returns the keyed hash of a person, by endpoint, namespace and endpoint, and
            name.

    Raises:
        ValueError: The frame holds no JSON object as its request.
    """
    head = frame.head
    request = _object(frame.request)
    if request is None:
        raise ValueError("the request is no JSON object")
    answer = None
    if not head.get("isError"):
        answer = join_stream(frame.answer) if head.get("isStream") else _object(frame.answer)
    found = None if answer is None else answer.get("choices")
    choices = [_without_tokens(each) for each in found] if isinstance(found, list) else []
    endpoint, whose = head["endpoint"], f"{head['namespace']}/{head['endpoint']}"
    named = next((str(request[name]) for name in _USERS if request.get(name)), None)
    user = None if named is None else hash_person(endpoint, whose, named)
    # A field that no engine was sent, such as `prompt_cache_key`, may name a user in clear.
    kept = FIELDS - {"model", *_USERS}
    asked = {name: each for name, each in request.items() if name in kept}
    asked, choices = redact_value([_unescape(asked), _unescape(choices)], SETTINGS)
    asked["model"] = endpoint
    if user is not None:
        asked["user"] = user
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    reason = first.get("finish_reason")
    return Exchange(
        id=head["id"],
        time=datetime.fromisoformat(head["time"]),
        endpoint=endpoint,
        version=head["version"],
        sha256=head["sha256"],
        request=asked,
        answer=_whole(answer, choices) if answer is not None and choices else {},
        latency_seconds=head["latencySeconds"],
        num_input_tokens=head.get("numInputTokens"),
        num_output_tokens=head.get("numOutputTokens"),
        user=user,
        sender=hash_person(endpoint, whose, sender) if (sender := head.get("sender")) else "",
        is_error=not choices,
        is_refusal=bool(head.get("isRefusal")),
        is_invalid_json=bool(head.get("isInvalidJson")),
        finish_reason=reason if isinstance(reason, str) else None,
    )


def scrub_text(text: str) -> str:
    """Return a text without personal data, such as a correction."""
    return redact_text(str(_unescape(text)), SETTINGS)


def _whole(answer: Mapping[str, Any], choices: list[Any]) -> dict[str, Any]:
    usage = answer.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return {
        "object": "text_completion"
        if answer.get("object") == "text_completion"
        else "chat.completion",
        "choices": choices,
        "usage": {
            name: number
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            if isinstance(number := counts.get(name), int)
        },
    }


def _without_tokens(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return {}
    return {name: each for name, each in choice.items() if name not in _TOKEN_FIELDS}


def _unescape(value: Any) -> Any:
    """Write JSON within strings without escapes: they would hide what is to be recognised."""
    if isinstance(value, dict):
        return {name: _unescape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_unescape(each) for each in value]
    if isinstance(value, str) and "\\u" in value and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.dumps(_unescape(orjson.loads(value))).decode()
        except (ValueError, TypeError):
            return value
    return value


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

"""What a request's body may hold. Pure.

An engine does more than the product promises: it fetches media from URLs, takes priorities and
templates, and reads embeddings. So only listed fields pass, and of messages only text.
"""

from __future__ import annotations

from typing import Any

import orjson

from finetune_trainer.serve.errors import Refused

FIELDS = frozenset(
    (
        *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature"),
        *("top_p", "n", "stop", "stream", "stream_options", "seed", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "user", "safety_identifier", "store"),
        *("metadata", "top_k", "min_p", "repetition_penalty"),
    )
)
"""OpenAI's fields for text, and three of vLLM that only shape the sampling."""
MAX_CHOICES = 8
"""Largest ``n``."""


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a body that can be written again.

    Raises:
        Refused: It is no JSON object, or is nested too deeply.
    """
    try:
        fields = orjson.loads(body)
        orjson.dumps(fields)  # its limit of nesting is lower than that of reading
    except (ValueError, TypeError):
        message = "The body is not JSON, or is nested too deeply. Send a flat JSON object."
        raise Refused(400, "invalid_json", message) from None
    if not isinstance(fields, dict):
        raise Refused(400, "invalid_json", "The body must be a JSON object.")
    return fields


def check_fields(fields: dict[str, Any]) -> None:
    """Check that an engine may read these fields.

    Raises:
        Refused: A field is not listed, or asks for more than text.
    """
    for name in fields:
        if name not in FIELDS:
            message = f"The field `{name[:64]}` is not supported. Remove it."
            raise Refused(400, "unknown_parameter", message, param=name[:64])
    choices = fields.get("n")
    if choices is not None and (not isinstance(choices, int) or choices > MAX_CHOICES):
        message = f"`n` must be a whole number of at most {MAX_CHOICES}."
        raise Refused(400, "invalid_value", message, param="n")
    messages = fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) or content is None:
            continue
        for number, part in enumerate(content if isinstance(content, list) else [content]):
            if isinstance(part, str):
                continue
            _check_part(part, f"messages[{index}].content[{number}]")


def _check_part(part: object, where: str) -> None:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else None
        where = f"{where}.{kind[:64]}" if isinstance(kind, str) else where
    else:
        strange = next((name for name in part if name not in ("type", "text")), None)
        if strange is None:
            return
        where = f"{where}.{strange[:64]}"
    message = f'`{where}` is not supported. Send parts with `type` "text" and `text` alone.'
    raise Refused(400, "unsupported_content", message, param=where)

"""What an answer says about the version that gave it, read from the bytes that passed.

Only the start and the end of an answer are kept, so that memory does not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_trainer.evaluate.metrics.refusal import NUM_CHARACTERS, is_refusal

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 4 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Facts about an answer.

    Attributes:
        is_error: It is a stream that reports an error.
        is_refusal: It declines.
        is_invalid_json: JSON was asked for, and a whole answer is none.
        num_input_tokens: None if the answer does not say.
        num_output_tokens: The same.
    """

    is_error: bool = False
    is_refusal: bool = False
    is_invalid_json: bool = False
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None

    def bad_signals(self, *, status: int, is_slow: bool) -> list[str]:
        """Return the signals by which the answer is bad, as a report names them."""
        signals = {
            "errors": self.is_error or status >= 500,
            "slow": is_slow,
            "refusals": self.is_refusal,
            "invalidJson": self.is_invalid_json,
        }
        return [signal for signal, is_given in signals.items() if is_given]


class Watched:
    """An answer as it passes.

    Args:
        wants_json: The request asked for JSON.
    """

    __slots__ = ("_head", "_is_stream", "_size", "_tail", "_wants_json", "num_events")

    def __init__(self, *, is_stream: bool, wants_json: bool) -> None:
        self._is_stream = is_stream
        self._wants_json = wants_json
        self._head: list[bytes] = []
        self._tail = b""
        self._size = 0
        self.num_events = 0

    def take(self, piece: bytes) -> None:
        """Note a piece of the answer."""
        if self._is_stream:
            self.num_events += piece.count(b"\n\n")
        if self._size < HEAD_BYTES:
            self._head.append(piece)
        else:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        self._size += len(piece)

    def conclude(self) -> Facts:
        """Return what the answer tells."""
        head = b"".join(self._head)
        if self._is_stream:
            return self._conclude_stream(head)
        try:
            answer = orjson.loads(head)
            choice = answer["choices"][0]
            text = _text_of(choice, "message")
        except (ValueError, LookupError, TypeError):
            return Facts()
        is_whole = choice.get("finish_reason") != "length"
        return self._facts_of(
            text, _declines(choice, "message"), answer.get("usage"), is_whole=is_whole
        )

    def _conclude_stream(self, head: bytes) -> Facts:
        is_whole = not self._tail
        needed = HEAD_BYTES if self._wants_json else NUM_CHARACTERS
        text, declines = "", False
        for event in _events(head):
            if "error" in event:
                return Facts(is_error=True)
            try:
                choice = event["choices"][0]
                if choice.get("index", 0) == 0:
                    text += _text_of(choice, "delta")
                    declines = declines or _declines(choice, "delta")
                    is_whole = is_whole and choice.get("finish_reason") != "length"
            except (LookupError, TypeError, AttributeError):
                continue
            if len(text) >= needed:
                break
        end = list(_events((head + self._tail)[-TAIL_BYTES:]))
        if any("error" in event for event in end):
            return Facts(is_error=True)
        usage = next((event["usage"] for event in reversed(end) if event.get("usage")), None)
        return self._facts_of(text, declines, usage, is_whole=is_whole)

    def _facts_of(
        self, text: str, declines: bool, usage: Mapping[str, Any] | None, *, is_whole: bool
    ) -> Facts:
        usage = usage if isinstance(usage, Mapping) else {}
        return Facts(
            is_refusal=declines or (bool(text) and is_refusal(text)),
            is_invalid_json=self._wants_json and is_whole and bool(text) and not _is_json(text),
            num_input_tokens=_count(usage.get("prompt_tokens")),
            num_output_tokens=_count(usage.get("completion_tokens")),
        )


def wants_json(body: Mapping[str, Any]) -> bool:
    """Tell whether a request asks for JSON, and for nothing that cuts it off."""
    wanted = body.get("response_format")
    return (
        not body.get("stop")
        and isinstance(wanted, dict)
        and wanted.get("type") in ("json_object", "json_schema")
    )


def _text_of(choice: Mapping[str, Any], part: str) -> str:
    holder = choice.get(part)
    text = choice.get("text") if holder is None else holder.get("content")
    return text if isinstance(text, str) else ""


def _declines(choice: Mapping[str, Any], part: str) -> bool:
    holder = choice.get(part)
    said = isinstance(holder, dict) and bool(holder.get("refusal"))
    return said or choice.get("finish_reason") == "content_filter"


def _events(stream: bytes) -> Iterator[dict[str, Any]]:
    for line in stream.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                event = orjson.loads(line[6:])
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

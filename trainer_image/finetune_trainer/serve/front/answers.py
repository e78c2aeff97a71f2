"""What an answer says about the version that gave it, read from the bytes that passed.

Only the start and the end of an answer are kept, so that memory does not grow with its length.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_trainer.evaluate.metrics.refusal import is_refusal
from finetune_trainer.serve.front.rotation import is_error

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 4 * 1024
HELD_BYTES = 64 * 1024
"""Of a line of a stream that is not complete, so much waits at most."""
# Of long answers. A quotation mark within a text has a backslash before it.
_CHOICE = re.compile(r'(?<!\\)"(message(?="\s*:\s*\{)|text(?="\s*:\s*"))"\s*:\s*')
_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_FINISHED = re.compile(rb'(?<!\\)"finish_reason"\s*:\s*"(\w+)"')
MAX_TOKENS = 10_000_000
"""No context has more, so an engine that counts more has counted wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Facts about an answer.

    Attributes:
        is_error: It is no completion: an error, something else, or a stream without its end.
        is_refusal: A choice declines.
        is_invalid_json: JSON was asked for, and a whole choice is none.
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
            "errors": is_error(status) or (status == 200 and self.is_error),
            "slow": is_slow,
            "refusals": self.is_refusal,
            "invalidJson": self.is_invalid_json,
        }
        return [signal for signal, is_given in signals.items() if is_given]


@dataclass(slots=True)
class Said:
    """What one choice of an answer says.

    Attributes:
        is_whole: Whether nothing has cut the text off.
    """

    text: str = ""
    declines: bool = False
    is_whole: bool = True


class Watched:
    """An answer as it passes.

    Args:
        wants_json: The request asked for JSON.

    Attributes:
        last: When the last piece came, by the monotonic clock.
        num_events: Of a stream.
        size: Bytes that came.
    """

    __slots__ = ("_head", "_is_stream", "_tail", "_wants_json", "last", "num_events", "size")

    def __init__(self, *, is_stream: bool, wants_json: bool) -> None:
        self._is_stream = is_stream
        self._wants_json = wants_json
        self._head: list[bytes] = []
        self._tail = b""
        self.size = 0
        self.num_events = 0
        self.last = time.monotonic()

    def take(self, piece: bytes) -> None:
        """Note a piece of the answer."""
        if self._is_stream:
            self.num_events += piece.count(b"\n\n") + piece.count(b"\n\r\n")
        if self.size < HEAD_BYTES:
            self._head.append(piece)
        else:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        self.size += len(piece)
        self.last = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether it is no stream, or one with its end: an error, a reason to finish, or both."""
        if not self._is_stream:
            return True
        end = (b"".join(self._head) + self._tail)[-TAIL_BYTES:]
        return b"data: [DONE]" in end or any(map(_ends, _events(end)))

    def conclude(self) -> Facts:
        """Return what the answer tells."""
        head = b"".join(self._head)
        if self._is_stream:
            return self._conclude_stream(head)
        if self._tail:
            return self._conclude_long(head)
        try:
            answer = orjson.loads(head)
            choices = answer["choices"]
            if not choices or not all(map(_has_text, choices)):
                return Facts(is_error=True)
            said = [
                Said(_text_of(each, "message"), _declines(each, "message"), not _is_cut(each))
                for each in choices
            ]
        except (ValueError, LookupError, TypeError, AttributeError):
            return Facts(is_error=True)
        return self._facts_of(said, answer.get("usage"))

    def _conclude_long(self, head: bytes) -> Facts:
        """Return the facts in the start and the end of an answer that is too long to be kept."""
        if not (head.lstrip().startswith(b"{") and self._tail.rstrip().endswith(b"}")):
            return Facts(is_error=True)
        choices, text, at = list[dict[str, Any]](), head.decode("utf-8", "replace"), 0
        with suppress(ValueError, RecursionError):
            while found := _CHOICE.search(text, at):
                value, at = json.JSONDecoder().raw_decode(text, found.end())
                choices.append({found[1]: value})
        end = (head + self._tail)[-TAIL_BYTES:]
        usage = None
        if ends := _USAGE.findall(end):
            with suppress(ValueError):
                usage = orjson.loads(ends[-1])
        is_whole = b"length" not in _FINISHED.findall(head) + _FINISHED.findall(end)
        said = [Said(_text_of(c, "message"), _declines(c, "message"), is_whole) for c in choices]
        return self._facts_of(said, usage)

    def _conclude_stream(self, head: bytes) -> Facts:
        choices = defaultdict[int, Said](lambda: Said(is_whole=not self._tail))
        for event in _events(head):
            if "error" in event:
                return Facts(is_error=True)
            try:
                for choice in event["choices"]:
                    said = choices[choice.get("index", 0)]
                    said.text += _text_of(choice, "delta")
                    said.declines |= _declines(choice, "delta")
                    said.is_whole &= not _is_cut(choice)
            except (LookupError, TypeError, AttributeError):
                continue
        if not self.has_ended:
            return Facts(is_error=True)
        end = list(_events((head + self._tail)[-TAIL_BYTES:]))
        if any("error" in event for event in end):
            return Facts(is_error=True)
        usage = next((event["usage"] for event in reversed(end) if event.get("usage")), None)
        return self._facts_of(choices.values(), usage)

    def _facts_of(self, choices: Collection[Said], usage: Mapping[str, Any] | None) -> Facts:
        usage = usage if isinstance(usage, Mapping) else {}
        return Facts(
            is_refusal=any(c.declines or (c.text and is_refusal(c.text)) for c in choices),
            is_invalid_json=self._wants_json
            and any(c.is_whole and c.text and not _is_json(c.text) for c in choices),
            num_input_tokens=_count(usage.get("prompt_tokens")),
            num_output_tokens=_count(usage.get("completion_tokens")),
        )


class UsageFilter:
    """Takes the event that only counts tokens out of a stream whose client did not ask for it.

    Whole lines pass. What passes is not changed.
    """

    __slots__ = ("_ends_event", "_held", "_is_in_event", "_is_in_line")

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_in_line = False  # its start has passed: it was too long to wait
        self._is_in_event = False
        self._ends_event = False  # the next line, if it is blank, belongs to what was taken out

    def take(self, piece: bytes) -> bytes:
        """Return what passes on after a further piece. An empty one ends the stream."""
        if self._is_in_line and b"\n" not in piece:
            return piece
        self._held += piece
        if not piece:
            return b"" if _only_counts(self._held) else bytes(self._held)
        if b"\n" not in piece and len(self._held) <= HELD_BYTES:
            return b""
        *lines, rest = bytes(self._held).split(b"\n")
        passed = b"".join(line + b"\n" for line in lines if self._passes(line))
        self._held = bytearray(rest)
        if len(rest) > HELD_BYTES:
            self._held.clear()
            self._is_in_line = True
            passed += rest
        return passed

    def _passes(self, line: bytes) -> bool:
        is_blank = not self._is_in_line and line in (b"", b"\r")
        is_usage = not self._is_in_line and _only_counts(line)
        is_end = is_blank and self._ends_event
        self._ends_event = is_usage and not self._is_in_event
        self._is_in_event = not is_blank and (self._is_in_event or not is_usage)
        self._is_in_line = False
        return not is_usage and not is_end


def _only_counts(line: bytes | bytearray) -> bool:
    """Tell whether a line of a stream holds counts of tokens, and nothing of the answer."""
    if b'"usage"' not in line or (event := _event_of(line)) is None:
        return False
    return event.get("choices") == [] and bool(event.get("usage")) and "error" not in event


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


def _has_text(choice: Mapping[str, Any]) -> bool:
    return "text" in choice or isinstance(choice.get("message"), dict)


def _is_cut(choice: Mapping[str, Any]) -> bool:
    return choice.get("finish_reason") == "length"


def _declines(choice: Mapping[str, Any], part: str) -> bool:
    holder = choice.get(part)
    said = isinstance(holder, dict) and bool(holder.get("refusal"))
    return said or choice.get("finish_reason") == "content_filter"


def _events(stream: bytes) -> Iterator[dict[str, Any]]:
    for line in stream.split(b"\n"):
        if (event := _event_of(line)) is not None:
            yield event


def _event_of(line: bytes | bytearray) -> dict[str, Any] | None:
    if not line.startswith(b"data:") or not line[5:].lstrip().startswith(b"{"):
        return None
    try:
        event: dict[str, Any] = orjson.loads(line[5:])
    except ValueError:
        return None
    return event


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _ends(event: Mapping[str, Any]) -> bool:
    """Tell whether an event of a stream is its last with content, or an error."""
    choices = event.get("choices")
    return "error" in event or (
        isinstance(choices, list)
        and any(isinstance(each, dict) and each.get("finish_reason") for each in choices)
    )


def _count(value: object) -> int | None:
    """Return a number of tokens; None for what none can be."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS else None

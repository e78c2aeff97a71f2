"""Rows of captured traffic: an answer with its request, and what people said of it. Pure.

Rows hold no personal data: the recorder has replaced it before a row is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Rating = Literal["up", "down"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A request and its answer. In JSON the names are in camelCase.

    Attributes:
        id: Response id, without the prefix ``chatcmpl-`` that clients see.
        time: When the request came, in UTC.
        endpoint: Name of the FineTuneEndpoint.
        version: The version that answered.
        sha256: Of that version's manifest; empty if the front did not know it.
        request: Body of the request in OpenAI's shape. ``model`` is the endpoint.
        answer: Body of the answer in OpenAI's shape, never chunks. Empty for an error.
        latency_seconds: From the request to the end of the answer.
        user: Keyed hash of the request's ``user``; None if it has none.
        sender: Keyed hash of the API key, or of the address where no key is asked for.
        is_error: There is no whole answer: the server failed or broke off.
    """

    id: str
    time: datetime
    endpoint: str
    version: int
    sha256: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any]
    latency_seconds: float
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    user: str | None = None
    sender: str = ""
    is_error: bool = False
    is_refusal: bool = False
    is_invalid_json: bool = False
    finish_reason: str | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages of the request. A prompt without messages is one message of the user."""
        found = self.request.get("messages")
        if isinstance(found, list):
            return [each for each in found if isinstance(each, dict)]
        prompt = self.request.get("prompt")
        return [{"role": "user", "content": prompt if isinstance(prompt, str) else ""}]

    @property
    def message(self) -> dict[str, Any]:
        """The answer as one message of the assistant. Of several choices it is the first."""
        choices = self.answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        message = choice.get("message") if isinstance(choice, dict) else None
        if isinstance(message, dict):
            return message
        text = choice.get("text") if isinstance(choice, dict) else None
        return {"role": "assistant", "content": text if isinstance(text, str) else ""}

    @property
    def text(self) -> str:
        """Text of the answer; empty if it only calls tools."""
        content = self.message.get("content")
        return content if isinstance(content, str) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What one person said of one answer. A later entry of the same person replaces it.

    Attributes:
        id: Response id of the answer.
        who: Keyed hash of the API key's name.
        rating: None withdraws an earlier one.
        correction: The answer as it should have been.
        metadata: Further entries that a client has set.
    """

    id: str
    time: datetime
    endpoint: str
    version: int
    sha256: str
    who: str
    rating: Rating | None = None
    correction: str | None = None
    reason: str | None = None
    metadata: Mapping[str, str] | None = None


def write_exchange(row: Exchange) -> bytes:
    """Return a line of a segment, with its line break."""
    return orjson.dumps(
        {
            "id": row.id,
            "time": write_time(row.time),
            "endpoint": row.endpoint,
            "version": row.version,
            "sha256": row.sha256,
            "request": row.request,
            "answer": row.answer,
            "latencySeconds": row.latency_seconds,
            "numInputTokens": row.num_input_tokens,
            "numOutputTokens": row.num_output_tokens,
            "user": row.user,
            "sender": row.sender,
            "isError": row.is_error,
            "isRefusal": row.is_refusal,
            "isInvalidJson": row.is_invalid_json,
            "finishReason": row.finish_reason,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def parse_exchange(line: bytes) -> Exchange:
    """Return the row of a line.

    Raises:
        ValueError: It is no row; the message names the field.
    """
    fields = _Fields(_object(line))
    return Exchange(
        id=fields.text("id"),
        time=fields.time("time"),
        endpoint=fields.text("endpoint"),
        version=fields.number("version"),
        sha256=fields.text("sha256"),
        request=fields.mapping("request"),
        answer=fields.mapping("answer"),
        latency_seconds=fields.seconds("latencySeconds"),
        num_input_tokens=fields.number_or_none("numInputTokens"),
        num_output_tokens=fields.number_or_none("numOutputTokens"),
        user=fields.text_or_none("user"),
        sender=fields.text_or_none("sender") or "",
        is_error=fields.flag("isError"),
        is_refusal=fields.flag("isRefusal"),
        is_invalid_json=fields.flag("isInvalidJson"),
        finish_reason=fields.text_or_none("finishReason"),
    )


def parse_segment(data: bytes) -> Iterator[Exchange]:
    """Yield the rows of a segment, in the order of their answers' ends.

    Raises:
        ValueError: A line is no row; the message names line and field.
    """
    for number, line in enumerate(data.splitlines(), start=1):
        if line:
            try:
                yield parse_exchange(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def write_feedback(row: Feedback) -> bytes:
    """Return an entry as JSON."""
    return orjson.dumps(
        {
            "id": row.id,
            "time": write_time(row.time),
            "endpoint": row.endpoint,
            "version": row.version,
            "sha256": row.sha256,
            "who": row.who,
            "rating": row.rating,
            "correction": row.correction,
            "reason": row.reason,
            "metadata": row.metadata,
        }
    )


def parse_feedback(data: bytes) -> Feedback:
    """Return the entry in a JSON object.

    Raises:
        ValueError: It is no entry; the message names the field.
    """
    value = _object(data)
    fields = _Fields(value)
    metadata = value.get("metadata")
    return Feedback(
        id=fields.text("id"),
        time=fields.time("time"),
        endpoint=fields.text("endpoint"),
        version=fields.number("version"),
        sha256=fields.text("sha256"),
        who=fields.text("who"),
        rating=read_rating(value.get("rating")),
        correction=fields.text_or_none("correction"),
        reason=fields.text_or_none("reason"),
        metadata=metadata if isinstance(metadata, dict) else None,
    )


def read_rating(value: object) -> Rating | None:
    """Return a rating.

    Raises:
        ValueError: It is neither ``up``, ``down`` nor None.
    """
    match value:
        case None | "":
            return None
        case "up":
            return "up"
        case "down":
            return "down"
    raise ValueError(f"rating is {str(value)[:40]!r}: give up or down")


def latest_of_each(entries: Iterator[Feedback]) -> list[Feedback]:
    """Return the last entry of each person for each answer, oldest first."""
    last: dict[tuple[str, str], Feedback] = {}
    for entry in entries:
        key = (entry.id, entry.who)
        if key not in last or last[key].time <= entry.time:
            last[key] = entry
    return sorted(last.values(), key=lambda entry: (entry.time, entry.id, entry.who))


def write_time(time: datetime) -> str:
    """Return a time in UTC with milliseconds: ``2026-11-30T04:00:29.123Z``."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except ValueError:
        raise ValueError("the row is no JSON: the object was not written by a recorder") from None
    if not isinstance(value, dict):
        raise ValueError("the row is no JSON object: the object was not written by a recorder")
    return value


@dataclass(frozen=True, slots=True)
class _Fields:
    value: Mapping[str, Any]

    def text(self, name: str) -> str:
        found = self.value.get(name)
        if not isinstance(found, str):
            raise self._wrong(name, "a string")
        return found

    def text_or_none(self, name: str) -> str | None:
        return None if self.value.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        found = self.value.get(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise self._wrong(name, "a whole number")
        return found

    def number_or_none(self, name: str) -> int | None:
        return None if self.value.get(name) is None else self.number(name)

    def seconds(self, name: str) -> float:
        found = self.value.get(name)
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self._wrong(name, "a number")
        return float(found)

    def flag(self, name: str) -> bool:
        return self.value.get(name) is True

    def mapping(self, name: str) -> Mapping[str, Any]:
        found = self.value.get(name)
        if not isinstance(found, dict):
            raise self._wrong(name, "an object")
        return found

    def time(self, name: str) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(name))
        except ValueError:
            raise self._wrong(name, "a time such as 2026-11-30T04:00:29Z") from None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def _wrong(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{name} is {str(self.value.get(name))[:40]!r}: it must be {wanted}")

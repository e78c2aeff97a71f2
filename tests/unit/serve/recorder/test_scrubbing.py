"""What the front hands over becomes a row without personal data, however it was cut in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.prepare.privacy.finding import Settings
from finetune_trainer.prepare.privacy.redaction import redact_text
from finetune_trainer.serve.handover import Frame, read_frames, write_frame
from finetune_trainer.serve.recorder.joining import join_stream
from finetune_trainer.serve.recorder.people import hash_person
from finetune_trainer.serve.recorder.scrubbing import make_row, scrub_text
from finetune_trainer.traffic.rows import Exchange, write_exchange
from kit.planted.privacy import plant

PLANTED = (
    "max.mustermann@example-firma.de",
    "+49 30 901820",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8",
)
HEAD = {
    "id": "20261130040029-0000000000000000000000-0123456789",
    "time": "2026-11-30T04:00:29.123Z",
    "namespace": "team-a",
    "endpoint": "headline",
    "version": 3,
    "sha256": "a",
    "isStream": False,
    "isError": False,
    "latencySeconds": 0.5,
    "sender": "s",
}


def plain(text: str, **more: Any) -> bytes:
    message = {"role": "assistant", "content": text, **more}
    return json.dumps({"choices": [{"index": 0, "message": message}]}).encode()


def event(delta: dict[str, Any], index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, **more}
    return b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n"


def hash_of(_: str, whose: str, name: str) -> str:
    return hash_person("key", whose, name)


def row_of(answer: bytes, *, request: dict[str, Any] | None = None, **head: Any) -> Exchange:
    asked = {"model": "headline@3", "messages": [{"role": "user", "content": "Hi"}]}
    body = json.dumps({**asked, **(request or {})}).encode()
    return make_row(Frame(head={**HEAD, **head}, request=body, answer=answer), hash_of)


def find_planted(row: Exchange) -> list[str]:
    """Return what is left of the planted values; half of one counts."""
    written = write_exchange(row).decode()
    halves = [half for value in PLANTED for half in (value[: len(value) // 2], value)]
    return [half for half in halves if half in written]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_that_are_split_over_chunks_are_found(size: int) -> None:
    text = "Write to " + " or to ".join(PLANTED) + "."
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    arguments = json.dumps({"to": PLANTED[0]})
    parts = [arguments[place : place + size] for place in range(0, len(arguments), size)]
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "mail"}}
    stream = b"".join(
        [
            event({"role": "assistant", "content": ""}),
            *(event({"content": piece}) for piece in pieces),
            event({"tool_calls": [call]}),
            *(event({"tool_calls": [{"index": 0, "function": {"arguments": p}}]}) for p in parts),
            *(event({"reasoning_content": piece}, index=1) for piece in pieces),
            event({}, finish_reason="tool_calls"),
            b"data: [DONE]\n\n",
        ]
    )
    row = row_of(stream, isStream=True)
    assert find_planted(row) == []
    assert row.text == (
        "Write to <EMAIL_1> or to <PHONE_1> or to <CARD_1> or to <IBAN_1> or to <API_KEY_1>."
    )
    (made,) = row.message["tool_calls"]
    assert made["function"] == {"name": "mail", "arguments": '{"to": "<EMAIL_1>"}'}
    assert (made["id"], row.finish_reason, row.is_error) == ("c1", "tool_calls", False)


def test_a_request_is_scrubbed_in_every_string_and_name() -> None:
    mail = PLANTED[0]
    request = {
        "messages": [
            {"role": mail, "name": mail, "content": [{"type": "text", "text": f"I am {mail}"}]},
            {"role": "tool", "tool_call_id": mail, "content": json.dumps({"a": [mail]})},
        ],
        "tools": [
            {"type": mail, "function": {"name": "f", "parameters": {mail: {"enum": [mail]}}}}
        ],
        "metadata": {mail: mail},
        "stop": [mail],
        "store": True,
    }
    row = row_of(plain(f"Hello {mail}"), request=request)
    assert find_planted(row) == []
    assert row.text == "Hello <EMAIL_1>"
    assert row.request["model"] == "headline"


def test_escapes_of_json_within_a_string_hide_nothing() -> None:
    hidden = '{"to": "max.mustermann\\u0040example-firma.de"}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": hidden}}
    row = row_of(plain("", tool_calls=[call]))
    assert "mustermann" not in write_exchange(row).decode()
    assert scrub_text(hidden) == '{"to":"<EMAIL_1>"}'


def test_a_user_becomes_a_keyed_hash() -> None:
    for name in ("user", "safety_identifier"):
        row = row_of(plain("Ho"), request={name: PLANTED[0]})
        assert row.user == hash_person("key", "team-a/headline", PLANTED[0])
        assert row.request["user"] == row.user
        assert find_planted(row) == []
    assert row_of(plain("Ho")).user is None


def test_fields_that_no_engine_was_sent_are_not_kept() -> None:
    row = row_of(plain("Ho"), request={"user": "ann", "prompt_cache_key": "ann-of-berlin"})
    assert "prompt_cache_key" not in row.request
    assert "berlin" not in write_exchange(row).decode()


def test_pieces_of_tokens_and_what_an_engine_adds_are_not_kept() -> None:
    tokens = {"content": [{"token": piece} for piece in ("max.muster", "mann@example-firma.de")]}
    body = json.loads(plain("Ho"))
    body["choices"][0]["logprobs"] = tokens
    body["prompt_logprobs"] = [PLANTED[0]]
    row = row_of(json.dumps(body).encode())
    assert "muster" not in write_exchange(row).decode()
    assert row.text == "Ho"


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{", b'data: {"error": {"message": "m"}}\n\n', event({"content": "a"})]
)
def test_what_is_no_whole_answer_is_an_error_without_text(answer: bytes) -> None:
    row = row_of(answer, isStream=answer.startswith(b"data"), isError=b"content" in answer)
    assert (row.is_error, dict(row.answer), row.text) == (True, {}, "")


def test_a_stream_reads_like_a_plain_answer() -> None:
    stream = event({"role": "assistant", "content": "He"}) + event({"content": "llo"}, 1)
    stream += event({"content": "y"}, finish_reason="stop")
    stream += b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\r\n\r\ndata: [DONE]\n\n'
    joined = join_stream(stream)
    assert joined is not None
    assert [each["message"]["content"] for each in joined["choices"]] == ["Hey", "llo"]
    assert joined["usage"] == {"prompt_tokens": 3}
    text = b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": "b"}]}\n\n'
    joined = join_stream(text)
    assert joined is not None
    assert (joined["object"], joined["choices"][0]["text"]) == ("text_completion", "ab")


def test_broken_deltas_do_not_stop_the_joining() -> None:
    odd: list[dict[str, Any]] = [
        {"tool_calls": [{"index": 10**9, "function": {"name": "f"}}, "x", {"index": -1}]},
        {"tool_calls": {"a": 1}},
        {"content": {"a": 1}},
        {"content": "text"},
    ]
    joined = join_stream(b"".join(map(event, odd)))
    assert joined is not None


def test_frames_come_back_as_they_were_written() -> None:
    batch = write_frame(HEAD, b"{}", b"data") + write_frame(HEAD, b"", b"\x00\xff")
    assert [(f.request, f.answer) for f in read_frames(batch)] == [
        (b"{}", b"data"),
        (b"", b"\0\xff"),
    ]
    with pytest.raises(ValueError, match="within a frame"):
        list(read_frames(batch[:-1]))


def test_every_kind_is_found_in_a_stream_as_in_a_data_set() -> None:
    texts = [each.text for each in plant(12, seed=29)]
    assert len(texts) > 250
    for number, text in enumerate(texts):
        size = 1 + number % 5
        pieces = (text[place : place + size] for place in range(0, len(text), size))
        stream = b"".join(event({"content": piece}) for piece in pieces)
        row = row_of(stream, isStream=True, request={"messages": [], "stop": ["x"]})
        assert row.text == redact_text(text, Settings())

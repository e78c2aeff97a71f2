"""Rows of captured traffic come back as they were written, and others are refused by field."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from finetune_trainer.traffic.rows import (
    Exchange,
    Feedback,
    latest_of_each,
    parse_exchange,
    parse_feedback,
    parse_segment,
    write_exchange,
    write_feedback,
)

TIME = datetime(2026, 11, 30, 4, 0, 29, 123000, tzinfo=UTC)
ROW = Exchange(
    id="2026113004-AAAAAAAAAAAAAAAAAAAAAA-0123456789",
    time=TIME,
    endpoint="headline",
    version=3,
    sha256="a" * 64,
    request={"model": "headline", "messages": [{"role": "user", "content": "Hi"}]},
    answer={"choices": [{"index": 0, "message": {"role": "assistant", "content": "Ho"}}]},
    latency_seconds=0.25,
    num_input_tokens=3,
    user="u1",
    sender="s1",
    is_refusal=True,
    finish_reason="stop",
)
ENTRY = Feedback(
    id=ROW.id, time=TIME, endpoint="headline", version=3, sha256="a" * 64, who="w1", rating="down",
    correction="Hello", reason="tone", metadata={"team": "a"},
)  # fmt: skip


def test_rows_and_entries_come_back_as_they_were_written() -> None:
    assert parse_exchange(write_exchange(ROW)) == ROW
    assert parse_feedback(write_feedback(ENTRY)) == ENTRY
    two = write_exchange(ROW) + write_exchange(replace(ROW, id="other"))
    assert [row.id for row in parse_segment(two)] == [ROW.id, "other"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("id", 3), ("time", "noon"), ("version", True), ("version", "3"), ("request", [])],
        *[("answer", None), ("latencySeconds", "1"), ("numInputTokens", 1.5), ("user", 7)],
    ],
)
def test_a_row_with_a_wrong_field_is_refused_by_its_name(field: str, value: object) -> None:
    fields = {**orjson.loads(write_exchange(ROW)), field: value}
    with pytest.raises(ValueError, match=rf"^line 1: {field} is ") as caught:
        list(parse_segment(orjson.dumps(fields)))
    assert "must be" in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"rating": "sideways"}'])
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"must be|no JSON"):
        parse_feedback(data)


def test_a_text_completion_reads_like_a_conversation_of_one_turn() -> None:
    row = replace(
        ROW,
        request={"model": "headline", "prompt": "Once"},
        answer={"choices": [{"index": 0, "text": " upon"}]},
    )
    assert row.messages == [{"role": "user", "content": "Once"}]
    assert row.message == {"role": "assistant", "content": " upon"}
    assert (row.text, ROW.text, replace(ROW, answer={}).text) == (" upon", "Ho", "")


def test_the_last_entry_of_each_person_counts() -> None:
    later = replace(ENTRY, time=TIME + timedelta(seconds=1), rating="up", correction=None)
    other = replace(ENTRY, who="w2")
    assert latest_of_each(iter([later, ENTRY, other])) == [other, later]

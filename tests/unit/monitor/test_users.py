"""Captured rows: whose they are, and what is watched of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_trainer.monitor.signals import Answered
from finetune_trainer.monitor.users import read_exchange, texts_of_user
from finetune_trainer.traffic.rows import Exchange


def exchange(prompt: str, answer: str = "yes", **fields: Any) -> Exchange:
    return Exchange(
        id="id",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        endpoint="copy",
        version=1,
        sha256="",
        request={"messages": [{"role": "user", "content": prompt}]},
        answer={"choices": [{"message": {"role": "assistant", "content": answer}}]},
        latency_seconds=0.1,
        **fields,
    )


def test_without_a_user_a_conversation_counts_once() -> None:
    first, again = exchange("hello", sender="key"), exchange("hello", sender="key")
    other, elsewhere = exchange("good day", sender="key"), exchange("hello", sender="other")
    named = exchange("hello", sender="key", user="u1")
    users = [read_exchange(row).user for row in (first, again, other, elsewhere, named)]
    assert users[0] == users[1]
    assert len(set(users)) == 4
    assert users[4] == "u1"


def test_what_a_user_wrote_is_the_prompt() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "image_url"}]},
        {"role": "user", "content": None},
    ]
    assert texts_of_user(messages) == ["hello", "and"]


def test_an_error_and_a_call_of_tools_have_no_answer() -> None:
    assert read_exchange(exchange("hello")).answered == Answered(prompt="hello", answer="yes")
    broken = read_exchange(exchange("hello", is_error=True)).answered
    assert broken == Answered(prompt="hello", answer=None, is_error=True)
    assert read_exchange(exchange("hello", answer="")).answered.answer is None

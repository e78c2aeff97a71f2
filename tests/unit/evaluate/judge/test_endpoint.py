"""A judge over HTTP: outages, limits, refusals, dialects; and the key that nobody is told."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.evaluate.sources.judge.endpoint import (
    FIRST_ANSWER_SECONDS,
    MAX_FAILURES,
    PATIENCE_SECONDS,
    CallRefused,
    JudgeAway,
    JudgeEndpoint,
    JudgeRefuses,
)
from kit.servers.judge_server import Answer, Call, Judging, always_first, failing, serving, slow

KEY = "sk-very-secret-key"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Time:
    """A clock that moves only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def endpoint(url: str, time: Time, **settings: Any) -> JudgeEndpoint:
    values = {"key": KEY, "timeout_seconds": 5, "max_answer_tokens": 64, **settings}
    return JudgeEndpoint(url, "judge-1", wait=time.wait, clock=time.clock, **values)


def test_a_call_has_model_words_and_key_and_comes_back_with_its_tokens() -> None:
    with serving(lambda _: Answer(text=f"my key is {KEY}")) as server:
        reply = endpoint(server.url + "/", Time()).ask("words")
        (call,) = server.calls
    assert call.headers["Authorization"] == f"Bearer {KEY}"
    assert call.body["model"] == "judge-1"
    assert (call.body["temperature"], call.body["max_tokens"]) == (0, 64)
    assert call.content == "words"
    assert (reply.text, reply.input_tokens, reply.output_tokens) == ("my key is ***", 100, 10)


def test_without_a_key_none_is_sent_and_without_usage_none_is_told() -> None:
    with serving(lambda _: Answer(text="x", usage=False)) as server:
        reply = endpoint(server.url, Time(), key=None).ask("words")
    assert "Authorization" not in server.calls[0].headers
    assert reply.input_tokens is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status: int) -> None:
    time = Time()
    with serving(failing(3, Answer(status=status), always_first)) as server:
        assert endpoint(server.url, time).ask("words").text.endswith('"1"}')
    assert len(server.calls) == 4
    assert time.waits == sorted(time.waits)  # it backs off


def test_a_server_that_names_a_time_is_asked_then() -> None:
    time = Time()
    limited = Answer(status=429, headers={"Retry-After": "17"})
    with serving(failing(2, limited, always_first)) as server:
        endpoint(server.url, time).ask("words")
    assert time.waits == [17, 17]


def test_a_date_in_the_past_and_nonsense_are_no_time_to_wait() -> None:
    time = Time()
    headers = ["Mon, 01 Jan 2024 00:00:00 GMT", "soon", "-5", "nan"]

    def judge(call: Call) -> Answer:
        if call.number == len(headers):
            return always_first(call)
        return Answer(status=503, headers={"Retry-After": headers[call.number]})

    with serving(judge) as server:
        endpoint(server.url, time).ask("words")
    assert all(0 < seconds <= 30 for seconds in time.waits)


def test_a_judge_that_never_answers_is_given_up_and_the_key_stays_secret() -> None:
    time = Time()
    error = {"code": "boom", "message": f"row text and {KEY}"}
    with (
        serving(lambda _: Answer(status=503, error=error)) as server,
        pytest.raises(JudgeAway, match=r"status 503 \(boom\), for \d+ s") as caught,
    ):
        endpoint(server.url, time).ask("words")
    assert time.now <= FIRST_ANSWER_SECONDS
    assert KEY not in str(caught.value)


def test_one_that_has_answered_is_waited_for_longer() -> None:
    time = Time()
    answers: Judging = lambda call: always_first(call) if not call.number else Answer(status=500)  # noqa: E731
    with serving(answers) as server:
        judge = endpoint(server.url, time)
        judge.ask("words")
        with pytest.raises(JudgeAway):
            judge.ask("more")
        assert FIRST_ANSWER_SECONDS < time.now <= PATIENCE_SECONDS
        before = len(server.calls)
        with pytest.raises(JudgeAway):
            judge.ask("others that were under way end at their next failure")
        assert len(server.calls) == before + 1


def test_nobody_there_and_a_quota_that_asks_for_hours() -> None:
    with serving(always_first) as server:
        url = server.url
    with pytest.raises(JudgeAway, match="cannot be reached"):
        endpoint(url, Time()).ask("words")
    limited = Answer(status=429, headers={"Retry-After": "7200"})
    time = Time()
    with (
        serving(lambda _: limited) as server,
        pytest.raises(JudgeAway, match="asks to wait for 7200 s"),
    ):
        endpoint(server.url, time).ask("words")
    assert time.waits == []


def test_a_slow_answer_is_a_failure() -> None:
    time = Time()
    with serving(failing(1, Answer(), slow(0, always_first))) as server:
        server.judging = lambda call: (
            slow(0.6, always_first)(call) if not call.number else always_first(call)
        )
        assert endpoint(server.url, time, timeout_seconds=0.2).ask("words").text
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(status=401, error={"code": "invalid_api_key", "message": KEY}), "invalid_api_key"),
        (Answer(status=403, error={"code": KEY}), r"status 403$"),
        (Answer(status=404, error={"type": "NotFoundError"}), "NotFoundError"),
        (Answer(status=429, error={"code": "insufficient_quota"}), "insufficient_quota"),
        (Answer(status=307, headers={"Location": "http://127.0.0.1:9/"}), "another address"),
        (Answer(raw=b"<html>"), "no chat completion"),
        (Answer(raw=b'{"choices": []}'), "no chat completion"),
        (Answer(raw=b'[{"choices": 1}]'), "no chat completion"),
    ],
    ids=["key", "forbidden", "model", "quota", "redirect", "html", "empty", "list"],
)
def test_a_refusal_is_not_tried_again_and_quotes_nothing(answer: Answer, words: str) -> None:
    with serving(lambda _: answer) as server, pytest.raises(JudgeRefuses, match=words) as caught:
        endpoint(server.url, Time()).ask("words")
    assert len(server.calls) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_too_long_concerns_that_text_alone(status: int) -> None:
    error = {"code": "context_length_exceeded", "message": "your text was: words"}
    with (
        serving(lambda _: Answer(status=status, error=error)) as server,
        pytest.raises(CallRefused, match="context_length_exceeded"),
    ):
        endpoint(server.url, Time()).ask("words")


SCHEMA = {"type": "object", "properties": {"winner": {"enum": ["1", "2", "tie"]}}}


def test_a_server_is_told_the_schema_of_replies_only_where_one_is_wanted() -> None:
    with serving(always_first) as server:
        endpoint(server.url, Time(), reply_schema=SCHEMA).ask("words")
        endpoint(server.url, Time()).ask("words")
    held, free = server.calls
    assert held.body["response_format"]["type"] == "json_schema"
    assert held.body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in free.body


@pytest.mark.parametrize(
    "message",
    [
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported.",
        "response_format: Input should be 'text' or 'json_object'",
        "The provided JSON schema contains features not supported by xgrammar",
    ],
)
def test_a_server_that_knows_no_schema_is_told_with_the_remedy(message: str) -> None:
    answer = Answer(status=400, error={"message": message, "type": "BadRequestError"})
    with serving(lambda _: answer) as server:
        with pytest.raises(JudgeRefuses, match="structuredReplies: false"):
            endpoint(server.url, Time(), reply_schema=SCHEMA).ask("words")
        # A text may have such words in it, and be quoted.
        with pytest.raises(CallRefused):
            endpoint(server.url, Time()).ask("words")
    assert len(server.calls) == 2


def test_a_text_that_breaks_the_server_is_let_go_while_others_are_answered() -> None:
    def judge(call: Call) -> Answer:
        return Answer(status=500) if call.content == "poison" else always_first(call)

    time = Time()
    with serving(judge) as server:

        def wait(seconds: float) -> None:
            time.wait(seconds)
            asked.ask("another")

        asked = JudgeEndpoint(
            server.url,
            "judge-1",
            key=None,
            timeout_seconds=5,
            max_answer_tokens=64,
            wait=wait,
            clock=time.clock,
        )
        with pytest.raises(CallRefused, match="status 500"):
            asked.ask("poison")
    assert sum(call.content == "poison" for call in server.calls) == MAX_FAILURES + 1


def test_a_model_that_knows_neither_max_tokens_nor_temperature_is_asked_its_way() -> None:
    def judge(call: Call) -> Answer:
        if "max_tokens" in call.body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return Answer(status=400, error={"message": words})
        if "temperature" in call.body:
            return Answer(status=400, error={"message": "'temperature' does not support 0."})
        return always_first(call)

    with serving(judge) as server:
        asked = endpoint(server.url, Time())
        asked.ask("words")
        asked.ask("more")
    assert len(server.calls) == 4
    assert server.calls[-1].body["max_completion_tokens"] == 64


@pytest.mark.parametrize(
    ("content", "text"),
    [(b'[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]', "ab"), (b"null", "")],
)
def test_content_may_come_in_parts_or_not_at_all(content: bytes, text: str) -> None:
    raw = b'{"choices": [{"message": {"content": ' + content + b"}}]}"
    with serving(lambda _: Answer(raw=raw)) as server:
        assert endpoint(server.url, Time()).ask("words").text == text

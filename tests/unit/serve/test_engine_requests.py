"""What the engine reads of a request, and how it words a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.serve.engine.requests import (
    RequestError,
    Sampling,
    limit_answer,
    read_chat,
    read_completion,
    unknown_model,
)

MESSAGES = [{"role": "user", "content": "Good day"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "ns.job-v1", "messages": MESSAGES, **fields}


def test_a_chat_without_settings_samples_as_openai_does() -> None:
    ask = read_chat(chat())
    assert ask.sampling == Sampling(temperature=1.0, top_p=1.0, seed=None)
    assert (ask.max_tokens, ask.stop, ask.is_stream) == (None, (), False)


def test_settings_are_read() -> None:
    ask = read_chat(
        chat(
            temperature=0,
            top_p=0.5,
            seed=7,
            max_tokens=9,
            stop="END",
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert ask.sampling == Sampling(temperature=0, top_p=0.5, seed=7)
    assert ask.sampling.is_greedy
    assert (ask.max_tokens, ask.stop) == (9, ("END",))
    assert ask.is_stream
    assert ask.includes_usage


def test_both_names_of_the_limit_are_known() -> None:
    assert read_chat(chat(max_completion_tokens=5)).max_tokens == 5


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Good"}, {"type": "text", "text": " day"}]
    ask = read_chat(chat(messages=[{"role": "user", "content": parts}]))
    assert ask.prompt == [{"role": "user", "content": "Good day"}]


def test_a_completion_has_openai_s_short_limit() -> None:
    ask = read_completion({"model": "base", "prompt": ["Once"]})
    assert (ask.prompt, ask.max_tokens, ask.is_chat) == ("Once", 16, False)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": "all"}, "tools"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_chat({**chat(), **change})
    body = refused.value.body["error"]
    assert (refused.value.status, body["type"], body["param"]) == (
        400,
        "invalid_request_error",
        param,
    )


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1},
        {"logprobs": False},
        {"frequency_penalty": 0.0},
        {"response_format": {"type": "text"}},
        {"user": "somebody", "store": True, "metadata": {"a": "b"}},
        {"stop": None, "seed": None, "temperature": None},
    ],
)
def test_values_that_change_nothing_are_accepted(harmless: dict[str, Any]) -> None:
    assert read_chat({**chat(), **harmless}).model == "ns.job-v1"


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(RequestError, match="no JSON object"):
        read_chat([1])


def test_several_prompts_are_refused() -> None:
    with pytest.raises(RequestError, match="several requests"):
        read_completion({"model": "base", "prompt": ["a", "b"]})


def test_an_unknown_model_is_not_found_in_openai_s_shape() -> None:
    error = unknown_model("gone", ["b", "a"])
    assert error.status == 404
    assert error.body["error"]["code"] == "model_not_found"
    assert "lists: a, b" in error.message


@pytest.mark.parametrize(("asked", "size", "limit"), [(None, 60, 40), (40, 60, 40), (1, 99, 1)])
def test_an_answer_may_fill_the_context(asked: int | None, size: int, limit: int) -> None:
    assert limit_answer(read_chat(chat(max_tokens=asked)), size, 100) == limit


@pytest.mark.parametrize(
    ("asked", "size", "remedy"), [(41, 60, "max_tokens to 40"), (None, 100, "shorten the prompt")]
)
def test_more_than_the_context_is_refused_with_a_remedy(
    asked: int | None, size: int, remedy: str
) -> None:
    with pytest.raises(RequestError, match=remedy) as refused:
        limit_answer(read_chat(chat(max_tokens=asked)), size, 100)
    assert refused.value.code == "context_length_exceeded"

"""What the engine reads of a request, and how it words a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.serve.engine.requests import (
    RequestError,
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
    assert (ask.temperature, ask.top_p, ask.seed) == (1.0, 1.0, None)
    assert (ask.max_tokens, ask.stop, ask.stream) == (None, [], False)


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
    assert (ask.temperature, ask.top_p, ask.seed) == (0, 0.5, 7)
    assert (ask.max_tokens, ask.stop) == (9, ["END"])
    assert ask.stream
    assert ask.stream_options.include_usage


def test_both_names_of_the_limit_are_known() -> None:
    assert read_chat(chat(max_completion_tokens=5)).max_tokens == 5
    assert read_chat(chat(max_completion_tokens=None, max_tokens=6)).max_tokens == 6


def test_tokens_to_draw_from_are_read_as_vllm_reads_them() -> None:
    ask = read_chat(chat(top_k=3, min_p=0.2))
    assert (ask.top_k, ask.min_p) == (3, 0.2)
    for everything in (-1, 0, None):
        assert read_chat(chat(top_k=everything)).top_k <= 0


def test_log_probabilities_are_asked_as_openai_has_them() -> None:
    assert read_chat(chat()).num_logprobs is None
    assert read_chat(chat(logprobs=True)).num_logprobs == 0
    assert read_chat(chat(logprobs=True, top_logprobs=4)).num_logprobs == 4
    assert read_completion({"model": "m", "prompt": "p", "logprobs": 2}).num_logprobs == 2


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Good"}, {"type": "text", "text": " day"}]
    ask = read_chat(chat(messages=[{"role": "user", "content": parts}]))
    assert ask.prompt == [{"role": "user", "content": "Good day"}]
    refusal = {"type": "refusal", "refusal": "I cannot."}
    ask = read_chat(chat(messages=[*MESSAGES, {"role": "assistant", "content": [refusal]}]))
    assert ask.prompt[1]["content"] == "I cannot."


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
        ({"logprobs": True, "stream": True}, "logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_k": -7}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 9}, "min_p"),
        ({"max_completion_tokens": None, "max_tokens": 0}, "max_tokens"),
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
        {"seed": 5.0, "max_tokens": 9.0, "temperature": 1, "top_p": 1},
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

"""What a client of OpenAI's library finds at a front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from yarl import URL

from finetune_trainer.serve.bodies import FIELDS, MEANT_FIELDS
from finetune_trainer.serve.front.answers import HELD_BYTES, UsageFilter
from kit.processes.eventually import eventually_async
from kit.servers.running_front import (
    RunningFront,
    access,
    endpoint,
    running_front,
    served,
)
from kit.servers.streaming_engine import (
    Asked,
    StreamingEngine,
    chunk,
    event,
    head,
    streaming_engine,
)

V1 = "team-a.headline-v1"
HI: Any = [{"role": "user", "content": "hi"}]


def client_of(front: RunningFront, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=key, max_retries=0)


def beside_others(engine: StreamingEngine) -> list[dict[str, Any]]:
    """An open endpoint, one with keys, and one whose first version is not verified yet."""
    return [
        endpoint(served(1, engine.port)),
        endpoint(served(1, engine.port, "other"), name="other", access=access("others")),
        endpoint(None, name="early"),
    ]


async def test_a_model_is_retrieved_with_the_keys_that_list_it(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(*beside_others(engine))
        await front.set_keys("others", b="key-b")
        for key, names in (("none", {"headline"}), ("key-b", {"headline", "other"})):
            async with client_of(front, key) as client:
                listed = {each.id: each async for each in client.models.list()}
                assert listed.keys() == names
                for name in ("headline", "other", "early", "unknown", V1, "a/b", "head%6Cine"):
                    if name in names:
                        assert await client.models.retrieve(name) == listed[name]
                        continue
                    with pytest.raises(openai.NotFoundError) as refused:
                        await client.models.retrieve(name)
                    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
                    assert f"`{name}`" in refused.value.message


async def test_a_models_name_may_be_encoded_in_its_url_once(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(*beside_others(engine))
        found = {
            "headline": 200,
            "head%6Cine": 200,
            "headline?a=b": 200,
            "head%256Cine": 404,
            "headline%2F": 404,
            "headline/": 404,
            "../models/headline": 404,
            "%FF%00": 404,
            "x" * 5000: 404,
            "": 404,
        }
        for name, status in found.items():
            url = URL(f"{front.url}/v1/models/{name}", encoded=True)
            async with front.session.get(url) as answer:
                assert answer.status == status, name
        assert engine.asked == []


async def test_who_opens_no_model_retrieves_none_and_is_asked_for_a_key(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(beside_others(engine)[1])
        async with client_of(front) as client:
            for name in ("other", "unknown"):
                with pytest.raises(openai.AuthenticationError):
                    await client.models.retrieve(name)
        async with front.session.post(f"{front.url}/v1/models/other") as answer:
            assert answer.status == 405
        async with front.session.head(f"{front.url}/v1/models/other") as answer:
            assert answer.status == 401


async def test_streams_count_tokens_and_tell_usage_to_those_who_ask_for_it(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        async with client_of(front) as client:
            for number, options in enumerate(
                ({}, {"include_usage": False}, {"include_usage": True})
            ):
                asked = {"stream_options": options} if options else {}
                stream = await client.chat.completions.create(
                    model="headline", messages=HI, stream=True, **asked
                )
                chunks = [each async for each in stream]
                told = [each.usage.completion_tokens for each in chunks if each.usage is not None]
                assert told == ([3] if options.get("include_usage") else [])
                assert all(each.choices for each in chunks) is not bool(told)
                assert engine.asked[-1].body["stream_options"] == {"include_usage": True}
                await eventually_async(
                    _has_counted(front, input=3 * number + 3, output=3 * number + 3)
                )
            await client.chat.completions.create(model="headline", messages=HI)
            assert "stream_options" not in engine.asked[-1].body


def _has_counted(front: RunningFront, **tokens: int) -> Any:
    async def look() -> bool:
        lines = (await front.metrics()).splitlines()
        sums = [line for line in lines if line.startswith("gen_ai_client_token_usage_sum")]
        return all(
            any(
                f'gen_ai_token_type="{kind}"' in line and line.endswith(f" {number}.0")
                for line in sums
            )
            for kind, number in tokens.items()
        )

    return look


async def test_a_stream_of_known_length_has_none_once_its_usage_is_taken_out(
    tmp_path: Path,
) -> None:
    events = [
        event({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}),
        b"data: [DONE]\n\n",
    ]

    async def tell_length(engine: StreamingEngine, asked: Asked, writer: Any) -> None:
        body = b"".join(events)
        kind, length = "Content-Type: text/event-stream", f"Content-Length: {len(body)}"
        writer.write(f"HTTP/1.1 200 OK\r\n{kind}\r\n{length}\r\n\r\n".encode() + body)

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = tell_length
        async with front.ask(stream=True) as answer:
            assert await answer.read() == events[0] + events[2]
            assert "Content-Length" not in answer.headers
        await eventually_async(_has_counted(front, input=5, output=7))
        async with front.ask(stream=True, stream_options={"include_usage": True}) as answer:
            assert await answer.read() == b"".join(events)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stream": "true"}, '`stream` is "true": send true or false.'),
        ({"stream": 1}, "`stream` is 1: send true or false."),
        (
            {"stream": True, "stream_options": {"include_usage": "yes" * 100}},
            f'`stream_options.include_usage` is "{"yes" * 21}...: send true or false.',
        ),
        (
            {"stream": True, "stream_options": [1]},
            '`stream_options` is [1]: send an object such as {"include_usage": true}.',
        ),
    ],
)
async def test_a_stream_that_is_neither_on_nor_off_is_refused_with_the_remedy(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        async with front.ask(**asked) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["message"] == message
        assert engine.asked == []
        async with front.ask(stream=None, stream_options=None) as answer:
            assert answer.status == 200


COUNTS = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}'
LINES = {
    b'data: {"choices": [{"delta": {"content": "\\"usage\\": 1, \\"choices\\": []"}}]}': True,
    b'data: {"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}': True,
    b'data: {"choices": [{"delta": {}}], "usage": null}': True,
    b'data: {"choices": [], "usage": null}': True,
    b'data: {"choices": [], "usage": {"prompt_tokens": 1}, "error": {"message": "m"}}': True,
    b'data: {"usage": {"prompt_tokens": 1}}': True,
    b'data: {"choices": [], "usage": {"prompt_tokens"': True,
    b': "usage" "choices"': True,
    b"data: " + b"x" * 300_000: True,
    b"data: [DONE]": True,
    COUNTS: False,
    COUNTS.replace(b" ", b""): False,
}


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 5000, 10**7])
def test_only_events_of_counts_are_taken_out_however_a_stream_is_cut(
    newline: bytes, size: int
) -> None:
    blank = newline * 2
    lines = [line for each in LINES for line in (each, COUNTS)]
    wire = blank.join([*lines, b"event: a" + newline + COUNTS, b"id: 1", b"data: last"])
    wanted = blank.join([line for line, passes in LINES.items() if passes])
    wanted += blank + b"event: a" + blank + b"id: 1" + blank + b"data: last"
    for end in (b"", blank, newline + COUNTS):
        usage_filter, passed = UsageFilter(), bytearray()
        whole = wire + end
        for begin in range(0, len(whole), size):
            passed += usage_filter.take(whole[begin : begin + size])
        wanted_end = newline if end == newline + COUNTS else end
        assert passed + usage_filter.take(b"") == wanted + wanted_end


def test_a_line_without_an_end_waits_for_64_kib_and_then_passes_as_it_comes() -> None:
    usage_filter, passed = UsageFilter(), 0
    piece = b'"usage"' * 100
    for number in range(1, 1500):
        passed += len(usage_filter.take(piece))
        assert number * len(piece) - passed <= HELD_BYTES
        assert len(usage_filter._held) <= HELD_BYTES
    assert usage_filter.take(b"\n" + COUNTS + b"\n\nx") == b"\n\n"
    assert usage_filter.take(b"") == b"x"


async def test_a_chunk_of_a_megabyte_passes_before_its_end_has_come(tmp_path: Path) -> None:
    async def go_on(engine: StreamingEngine, asked: Asked, writer: Any) -> None:
        text = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 2**20}}]})
        writer.write(head(200, "text/event-stream") + chunk(b"data: " + text.encode()))
        await engine.may_cut.wait()
        writer.write(chunk(b"\n\n" + event({"choices": [], "usage": {"prompt_tokens": 1}})))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = go_on
        async with front.ask(stream=True) as answer:
            assert len(await answer.content.readexactly(2**20 - HELD_BYTES)) > 0
            engine.may_cut.set()
            assert (await answer.read()).endswith(b'x"}}]}\n\ndata: [DONE]\n\n')


DROPPED = "x-finetune-dropped-fields"


async def test_unknown_fields_are_dropped_where_the_endpoint_says_so_and_told(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        extra = {"service_tier": "auto", "a\r\nx-evil: 1": 1, "ü": {"a": [1]}, "functions": None}
        front.follow(endpoint(served(1, engine.port)))
        async with front.ask(**extra) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == "service_tier"
        front.follow(endpoint(served(1, engine.port), access={"unknownFields": "Drop"}))
        for stream in (False, True):
            async with front.ask(**extra, stream=stream, seed=1) as answer:
                assert answer.status == 200
                assert answer.headers[DROPPED] == "service_tier, ?, ?, functions"
                assert "x-evil" not in answer.headers
            asked = engine.asked[-1].body
            assert asked.keys() - {"stream_options"} == {"model", "messages", "stream", "seed"}
        assert 'dropped_fields_total{finetuneendpoint="headline"} 8.0' in await front.metrics()
        async with front.ask(**{f"f{number}": 1 for number in range(1000)}) as answer:
            assert answer.headers[DROPPED].endswith("f14, f15, ...")
        async with front.ask() as answer:
            assert DROPPED not in answer.headers
        front.follow()
        assert "dropped_fields_total{" not in await front.metrics()


@pytest.mark.parametrize(
    "meant",
    [
        {"functions": []},
        {"guided_json": {"type": "object"}},
        {"best_of": 1},
        {"chat_template": "{{ x }}"},
        {"n": 9},
        {"chat_template_kwargs": {"tokenize": True}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    ],
)
async def test_what_would_change_the_answer_is_refused_and_never_dropped(
    tmp_path: Path, meant: dict[str, Any]
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access={"unknownFields": "Drop"}))
        async with front.ask(**meant, service_tier="auto") as answer:
            assert answer.status == 400
            assert next(iter(meant)) in (await answer.json())["error"]["param"]
        assert engine.asked == []


def test_no_field_is_both_supported_and_refused_by_its_meaning() -> None:
    assert not FIELDS & MEANT_FIELDS


async def test_tools_and_calls_of_them_pass_unchanged_in_both_directions(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"usage": {"type": "string"}}}
    function = {"name": "look_up", "parameters": parameters}
    asked: Any = {
        "tools": [{"type": "function", "function": {**function, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "parallel_tool_calls": False,
    }
    arguments = '{"usage": "choices\\": []", "ü": [1.50, null]}'
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": arguments}}
    turns: Any = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    begin = {**call, "index": 0, "function": {"name": "look_up", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [begin]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in arguments),
    ]
    choices = [{"index": 0, "delta": each, "finish_reason": None} for each in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    events = [event({"id": "x", "choices": [each]}) for each in choices] + [b"data: [DONE]\n\n"]
    counts = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 8}})

    async def call_tool(engine: StreamingEngine, asked: Asked, writer: Any) -> None:
        wire = b"".join([*events[:-1], counts, events[-1]])
        writer.write(head(200, "text/event-stream"))
        for at in range(0, len(wire), 100):
            writer.write(chunk(wire[at : at + 100]))
        writer.write(b"0\r\n\r\n")

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = call_tool
        async with front.ask(messages=turns, stream=True, **asked) as answer:
            assert await answer.read() == b"".join(events)
        sent = engine.asked[-1].body
        assert {name: sent[name] for name in (*asked, "messages")} == {**asked, "messages": turns}
        await eventually_async(_has_counted(front, input=9, output=8))
        assert 'signal="' not in await front.metrics()
        async with client_of(front) as client:
            stream = await client.chat.completions.create(
                model="headline", messages=HI, stream=True, **asked
            )
            pieces = [each.choices[0].delta.tool_calls or [] async for each in stream]
        said = [piece.function.arguments for calls in pieces for piece in calls if piece.function]
        assert "".join(each or "" for each in said) == arguments

"""The engine over a real tiny model: answers, streams, sampling, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from finetune_trainer.serve.engine import batch
from finetune_trainer.serve.engine.worker import Worker
from kit.processes.stages import Workbench

NAME = "default.tiny-v1"
Client = TestClient[Any, Any]
Body = Callable[..., dict[str, Any]]
CHAT = "/v1/chat/completions"


async def ask(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    async with client.post(CHAT, json=body) as reply:
        answer: dict[str, Any] = await reply.json()
        assert reply.status == 200, answer
        return answer


async def text_of(client: Client, body: dict[str, Any]) -> str:
    return str((await ask(client, body))["choices"][0]["message"]["content"])


async def stream(client: Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with client.post(path, json={**body, "stream": True}) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        lines = (await reply.read()).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_greedy_answers_are_those_of_the_evaluation(
    client: Client, body: Body, learned: Workbench
) -> None:
    lines = (learned.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert any(sample["tuned"] != sample["base"] for sample in samples)
    # At once: they share batches here, as they did there, but not the same ones.
    bodies = [body(messages=sample["prompt"]) for sample in samples]
    tuned = await asyncio.gather(*(text_of(client, each) for each in bodies))
    assert tuned == [sample["tuned"] for sample in samples]
    base = await asyncio.gather(*(text_of(client, {**each, "model": "base"}) for each in bodies))
    assert base == [sample["base"] for sample in samples]


async def test_an_answer_counts_its_tokens(client: Client, body: Body) -> None:
    answer = await ask(client, body(max_tokens=2))
    usage = answer["usage"]
    assert (answer["object"], answer["model"]) == ("chat.completion", NAME)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert usage["completion_tokens"] == 2
    assert usage["total_tokens"] == usage["prompt_tokens"] + 2


async def test_an_answer_has_the_id_of_its_request(client: Client, body: Body) -> None:
    headers = {"X-Request-Id": "20261130040029-0-1"}
    answer = await client.post(CHAT, json=body(max_tokens=1), headers=headers)
    assert (await answer.json())["id"] == "chatcmpl-20261130040029-0-1"


async def test_a_stream_adds_up_to_the_plain_answer(client: Client, body: Body) -> None:
    plain = await ask(client, body())
    chunks = await stream(client, CHAT, body(stream_options={"include_usage": True}))
    *pieces, last, counts = chunks
    assert len(pieces) > 1
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    joined = "".join(each["choices"][0]["delta"]["content"] for each in [*pieces, last])
    assert joined == plain["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]
    assert (counts["choices"], counts["usage"]) == ([], plain["usage"])


async def test_a_completion_continues_a_text(client: Client, body: Body) -> None:
    fields = {**body(model="base"), "prompt": "What colour"}
    async with client.post("/v1/completions", json=fields) as reply:
        plain = await reply.json()
    assert plain["object"] == "text_completion"
    chunks = await stream(client, "/v1/completions", fields)
    assert "".join(each["choices"][0]["text"] for each in chunks) == plain["choices"][0]["text"]


async def test_a_stop_text_ends_the_answer_before_it(client: Client, body: Body) -> None:
    whole = await text_of(client, body())
    assert len(whole) > 2
    answer = await ask(client, body(stop=[whole[1:3]]))
    assert answer["choices"][0]["message"]["content"] == whole[:1]
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_seed_repeats_an_answer_beside_others(client: Client, body: Body) -> None:
    drawn = body(temperature=2, seed=5, max_tokens=12)
    first = await text_of(client, drawn)
    others = [body(temperature=2, seed=seed, max_tokens=12) for seed in (5, 6, 7, 8)]
    again = await asyncio.gather(*(text_of(client, each) for each in others))
    assert again[0] == first
    assert len(set(again)) > 1


async def test_the_least_top_p_takes_the_likeliest_token(client: Client, body: Body) -> None:
    greedy = await text_of(client, body())
    assert await text_of(client, body(temperature=1.5, top_p=1e-6)) == greedy


async def test_the_first_of_the_likeliest_tokens_is_drawn_alone(client: Client, body: Body) -> None:
    greedy = await text_of(client, body())
    for only in ({"top_k": 1}, {"min_p": 1}):
        assert await text_of(client, body(temperature=2, seed=3, **only)) == greedy
    free = [await text_of(client, body(temperature=2, seed=seed, top_k=0)) for seed in range(4)]
    assert len(set(free)) > 1


async def test_an_answer_tells_how_likely_its_tokens_were(client: Client, body: Body) -> None:
    plain = await ask(client, body())
    answer = await ask(client, body(logprobs=True, top_logprobs=3))
    assert answer["choices"][0]["message"] == plain["choices"][0]["message"]
    told = answer["choices"][0]["logprobs"]["content"]
    assert len(told) == answer["usage"]["completion_tokens"]
    for place in told:
        likeliest = place["top_logprobs"]
        assert len(likeliest) == 3
        # The answer is greedy.
        assert (place["token"], place["logprob"]) == (
            likeliest[0]["token"],
            likeliest[0]["logprob"],
        )
        assert likeliest[0]["logprob"] >= likeliest[1]["logprob"]
    text = "".join(place["token"] for place in told)
    assert text.startswith(answer["choices"][0]["message"]["content"])
    fields = {**body(model="base"), "prompt": "What colour", "logprobs": 2, "max_tokens": 4}
    async with client.post("/v1/completions", json=fields) as reply:
        choice = (await reply.json())["choices"][0]
    columns = choice["logprobs"]
    assert "".join(columns["tokens"]).startswith(choice["text"])
    assert [len(columns[name]) for name in ("token_logprobs", "top_logprobs")] == [4, 4]


async def test_generation_stops_when_the_client_has_gone(
    client: Client, body: Body, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[batch.Reply] = []
    submit = worker.submit
    monkeypatch.setattr(worker, "submit", lambda reply: (replies.append(reply), submit(reply)))
    # At this temperature no end comes soon.
    endless = body(model="base", temperature=2, seed=1, max_tokens=450, stream=True)
    async with client.post(CHAT, json=endless) as reply:
        await reply.content.readany()
        reply.close()
    await ask(client, body(max_tokens=1))
    await asyncio.to_thread(worker.unload("nothing").exception, 60)
    async with asyncio.timeout(60):
        while not replies[0].future.done():
            await ask(client, body(max_tokens=1))
    assert replies[0].future.cancelled()
    await ask(client, body(max_tokens=1))
    assert len(replies[0].tokens) < 450


async def test_a_short_answer_does_not_wait_for_a_long_one(client: Client, body: Body) -> None:
    order: list[str] = []

    async def note(name: str, fields: dict[str, Any]) -> None:
        await ask(client, fields)
        order.append(name)

    endless = body(model="base", temperature=2, seed=1, max_tokens=300)
    await asyncio.gather(note("long", endless), note("short", body(max_tokens=2)))
    assert order == ["short", "long"]


async def test_a_failure_of_one_batch_leaves_the_engine_alive(
    client: Client, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(batch.Batch, "advance", fail)
        async with client.post(CHAT, json=body()) as reply:
            assert reply.status == 500
            error = (await reply.json())["error"]
    assert (error["type"], "no memory" in error["message"]) == ("server_error", True)
    assert await text_of(client, body())


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"max_tokens": 600}, 400, "context_length_exceeded"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_value"),
    ],
)
async def test_refusals_have_openai_s_shape(
    client: Client, body: Body, change: dict[str, Any], status: int, code: str
) -> None:
    async with client.post(CHAT, json=body(**change)) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (status, code)


async def test_what_is_no_json_and_what_is_no_route_are_refused(client: Client) -> None:
    async with client.post(CHAT, data=b"{") as reply:
        assert (reply.status, "no JSON" in (await reply.json())["error"]["message"]) == (400, True)
    async with client.get("/v1/embeddings") as reply:
        assert (reply.status, (await reply.json())["error"]["type"]) == (
            404,
            "invalid_request_error",
        )
    async with client.get("/health") as reply:
        assert reply.status == 200

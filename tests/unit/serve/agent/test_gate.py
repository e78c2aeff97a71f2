"""What passes the one door of a server pod."""

import asyncio
import json

import pytest

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.errors import Refused
from kit.builders.versions import publish_version
from kit.processes.eventually import eventually_async
from kit.servers.serving_agent import TOKEN, question

TEXT = {"type": "text", "text": "Ticket 1"}
IMAGE = "messages[0].content[0].image_url"
AUDIO = "messages[0].content[1].input_audio"
FILE = "messages[0].content[0].file"
UNTYPED = "messages[0].content[0]"


def part(kind: str) -> dict[str, object]:
    """Return a part of a message that the engine would fetch or decode."""
    return {"type": kind, kind: {"url": "http://10.0.0.1/"}}


@pytest.fixture
async def serving(agent, tmp_path):
    """An agent with one verified version; also returns the version."""
    version = publish_version(tmp_path / "out")
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    agent.engine.calls.clear()
    agent.engine.bodies.clear()
    return agent, version


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/tokenize"),
        ("POST", "/v1/embeddings"),
        ("GET", "/metrics"),
        ("GET", "/version"),
        ("GET", "/health"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/../v1/chat/completions"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/chat/completions/"),
    ],
)
async def test_no_other_path_passes_even_with_the_token(serving, method, path):
    agent, version = serving
    reader, writer = await asyncio.open_connection("127.0.0.1", agent.process.port)
    body = json.dumps(question(version.name, "Ticket 1"))
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert agent.engine.bodies == []
    assert not [call for call in agent.engine.calls if call != "models"]


@pytest.mark.parametrize("token", [None, "", "other", TOKEN + "x", TOKEN[:-1]])
async def test_nobody_passes_without_the_token(serving, token):
    agent, version = serving
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
        status, body = await agent.ask(
            path, question(version.name, "Ticket 1"), method=method, token=token
        )
        assert (status, body["error"]["code"]) == (401, "invalid_token")
    assert agent.engine.bodies == []


async def test_a_rotated_token_counts_without_a_restart(serving, tmp_path):
    agent, version = serving
    (tmp_path / "agent/token").write_text("second")

    async def passes():
        status, _ = await agent.ask(body=question(version.name, "Ticket 1"), token="second")
        return status == 200

    await eventually_async(passes)
    assert (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 401


async def test_two_tokens_count_while_one_replaces_the_other(serving, tmp_path):
    agent, version = serving
    (tmp_path / "agent/token").write_text("first\nsecond\n")

    async def opens(token):
        return (await agent.ask(body=question(version.name, "Ticket 1"), token=token))[0] == 200

    async def is_read():
        return await opens("second")

    await eventually_async(is_read)
    assert await opens("first")


async def test_an_empty_token_file_opens_nothing(serving, tmp_path):
    agent, version = serving
    (tmp_path / "agent/token").write_text("")

    async def is_shut():
        return (await agent.ask(body=question(version.name, "Ticket 1")))[0] == 401

    await eventually_async(is_shut)
    assert (await agent.ask(body=question(version.name, "Ticket 1"), token=""))[0] == 401


async def test_models_are_the_verified_adapters_alone(serving):
    agent, version = serving
    agent.engine.adapters["others.secret-v1"] = {}
    status, body = await agent.ask("/v1/models", method="GET")
    assert (status, [each["id"] for each in body["data"]]) == (200, [version.name])


@pytest.mark.parametrize("name", ["base", "others.secret-v1", "", None, 7])
async def test_the_base_and_strange_adapters_are_never_asked(serving, name):
    agent, _ = serving
    agent.engine.adapters["others.secret-v1"] = {"Ticket 1": "secret"}
    status, _ = await agent.ask(body=question(name, "Ticket 1"))
    assert status == (404 if isinstance(name, str) else 400)
    assert agent.engine.bodies == []


async def test_a_model_named_twice_is_read_alike_by_gate_and_engine(serving):
    agent, version = serving
    agent.engine.adapters["others.secret-v1"] = {"Ticket 1": "secret"}
    rest = '"messages": [{"role": "user", "content": "Ticket 1"}]'
    for names in (["others.secret-v1", version.name], [version.name, "others.secret-v1"]):
        raw = "{" + ", ".join(f'"model": "{name}"' for name in names) + f", {rest}}}"
        async with agent.session.post(
            f"http://127.0.0.1:{agent.process.port}/v1/chat/completions",
            data=raw,
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as response:
            text = await response.text()
        assert "secret" not in text or response.status == 404
    assert all(body["model"] == version.name for body in agent.engine.bodies)


async def test_streams_pass_untouched(serving):
    agent, version = serving
    status, text = await agent.ask(body=question(version.name, "Ticket 1", stream=True))
    pieces = "".join(
        f"data: {json.dumps({'piece': each})}\n\n" for each in version.tuned["Ticket 1"]
    )
    assert (status, text) == (200, pieces + "data: [DONE]\n\n")


async def test_the_trace_of_a_request_reaches_the_engine(serving):
    agent, version = serving
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await agent.ask(body=question(version.name, "Ticket 1"), headers={"traceparent": trace})
    assert agent.engine.traces[-1] == trace


async def test_a_lost_adapter_is_answered_by_try_again_and_noticed(serving):
    agent, version = serving
    agent.engine.adapters.clear()
    status, body = await agent.ask(body=question(version.name, "Ticket 1"))
    assert (status, body["error"]["code"]) == (503, "model_not_ready")
    await agent.until(version.name, "Verified")


async def test_a_pod_that_cannot_answer_keeps_no_connection(serving):
    """Otherwise each retry would come back to it, and never reach another pod of the server."""
    agent, version = serving
    agent.engine.adapters.clear()
    url = f"http://127.0.0.1:{agent.process.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = question(version.name, "Ticket 1")
    async with agent.session.post(url, json=body, headers=headers) as response:
        assert (response.status, response.headers.get("Connection")) == (503, "close")


async def test_the_cluster_port_has_metrics_of_load_alone(serving):
    agent, version = serving
    await agent.ask(body=question(version.name, "Ticket 1"))
    status, text = await agent.get("/metrics")
    assert status == 200
    assert f'finetune_agent_requests_total{{adapter="{version.name}",code="200"}} 1.0' in text
    assert 'finetune_agent_adapters{state="Verified"} 1.0' in text
    assert 'vllm:num_requests_waiting{model_name="x"} 3.0' in text
    assert "vllm:secret" not in text
    assert (await agent.get("/v1/models"))[0] == 404
    assert (await agent.get("/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"priority": -1}, "priority"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"thinking": "{{ x }}"}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": ["thinking"]}, "chat_template_kwargs."),
        ({"n": 9}, "n"),
        ({"n": "9"}, "n"),
        ({"messages": [{"role": "user", "content": [part("image_url")]}]}, IMAGE),
        ({"messages": [{"role": "user", "content": part("image_url")}]}, IMAGE),
        ({"messages": [{"role": "user", "content": [TEXT, part("input_audio")]}]}, AUDIO),
        ({"messages": [{"role": "user", "content": [{**TEXT, "file": {}}]}]}, FILE),
        ({"messages": [{"role": "user", "content": [{"image_url": "http://x"}]}]}, UNTYPED),
        (
            {"messages": [{"role": "user", "content": [{"type": "refusal", "text": "no"}]}]},
            "messages[0].content[0].text",
        ),
    ],
)
async def test_a_field_that_asks_for_more_than_text_is_refused_by_name(serving, more, param):
    agent, version = serving
    status, body = await agent.ask(body={**question(version.name, "Ticket 1"), **more})
    assert (status, body["error"]["param"]) == (400, param)
    assert body["error"]["type"] == "invalid_request_error"
    assert agent.engine.bodies == []


async def test_texts_in_parts_and_openais_fields_pass(serving):
    agent, version = serving
    more = {"n": 8, "temperature": 0, "metadata": {}, "top_k": 5, "user": "a"}
    more |= {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    silent = {"role": "assistant", "content": None}
    messages = [{"role": "user", "content": [TEXT]}, refused, silent]
    await agent.ask(body={**question(version.name, "x"), **more, "messages": messages})
    (asked,) = agent.engine.bodies
    assert asked == {"model": version.name, "messages": messages, **more}


@pytest.mark.parametrize(
    ("body", "defect"),
    [
        (b"", "empty"),
        (b" ", "empty"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b'{"a": NaN}', "column 7"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 2000, "nested too deeply"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "nested too deeply"),
        (b'{"a": 1', "unexpected end"),
    ],
)
def test_a_body_that_is_no_json_says_which_defect_it_has(body, defect):
    with pytest.raises(Refused) as refused:
        parse_body(body)
    assert refused.value.code == "invalid_json"
    assert defect in refused.value.message


async def test_a_body_that_is_nested_too_deeply_is_refused(serving):
    agent, version = serving
    nested = f'{{"model": "{version.name}", "metadata": {"[" * 500}{"]" * 500}}}'
    status, body = await agent.ask(raw=nested)
    assert (status, body["error"]["code"]) == (400, "invalid_json")

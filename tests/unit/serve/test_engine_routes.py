"""Requests that the engine refuses before any token is generated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from finetune_trainer.errors import DataError
from finetune_trainer.serve.engine.routes import make_app

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def worker_of(*, writes_tools: bool, needs_tools: bool = False) -> Any:
    def encode_prompt(_: Any, tools: Any = None) -> list[int]:
        if needs_tools and not tools:
            raise DataError("TemplateFailed", "tools is undefined")
        return [1] * (10_000 if tools and writes_tools else 9_000)

    encoder = SimpleNamespace(
        encode_prompt=encode_prompt,
        chat_format=SimpleNamespace(template="{{ messages }}", stop_ids=[0]),
    )
    return SimpleNamespace(names={"tiny": SimpleNamespace(encoder=encoder)})


@pytest.mark.parametrize(
    ("writes_tools", "needs_tools", "code"),
    [
        (False, False, "unsupported_value"),
        (True, False, "context_length_exceeded"),
        (True, True, "context_length_exceeded"),
    ],
)
async def test_tools_that_the_chat_template_drops_are_refused(
    writes_tools: bool, needs_tools: bool, code: str
) -> None:
    worker = worker_of(writes_tools=writes_tools, needs_tools=needs_tools)
    app = make_app(worker, context=512, version={})
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}
    async with TestClient(TestServer(app)) as client:
        reply = await client.post("/v1/chat/completions", json=body)
        error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (400, code)
    assert (error["param"] == "tools") is not writes_tools

"""What fronts and agents share: their settings, and how a process ends."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from finetune_trainer.serve.errors import json_response
from finetune_trainer.serve.process import ProcessSettings, ServingProcess

ADDRESS = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)


class Cluster:
    is_ready = True

    def report(self) -> bytes:
        return b"{}"

    async def read_metrics(self) -> bytes:
        return b""


def settings(folder: Path, **environment: str) -> ProcessSettings:
    file = folder / "endpoints.json"
    file.write_text("[]")
    return ProcessSettings.read(
        ADDRESS,
        {"FINETUNE_ENDPOINTS": file.as_uri(), **environment},
        linger_seconds=0.0,
        grace_seconds=3.0,
    )


@pytest.mark.parametrize("name", ["FINETUNE_LINGER_SECONDS", "FINETUNE_GRACE_SECONDS"])
def test_seconds_that_are_no_number_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'soon': give seconds"):
        settings(tmp_path, **{name: "soon"})


async def test_a_token_that_cannot_be_read_keeps_the_last_one(tmp_path: Path) -> None:
    token = tmp_path / "token"
    process = ServingProcess(settings(tmp_path, FINETUNE_TOKEN_FILE=str(token)))
    await process.look()
    assert process.token == ""
    token.write_text("secret\n")
    await process.look()
    token.unlink()
    await process.look()
    assert process.token == "secret"


async def test_a_watcher_that_fails_ends_the_process(tmp_path: Path) -> None:
    async def fail() -> None:
        await process.listening.wait()
        raise RuntimeError("the engine is unknown")

    process = ServingProcess(settings(tmp_path))
    with pytest.raises(RuntimeError, match="the engine is unknown"):
        await process.serve(answer, Cluster(), lambda _: None, asyncio.Event(), fail)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", process.port)


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    return json_response({})

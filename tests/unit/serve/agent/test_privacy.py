"""What of questions and answers leaves an agent: nothing, in reports and in logs."""

import argparse
import json
import logging
import re

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_trainer.serve.agent import asking as asking_module
from finetune_trainer.serve.agent import server as server_module
from finetune_trainer.serve.agent.engine import Engine, EngineRefused
from finetune_trainer.serve.verification import Stored
from kit.builders.versions import publish_version

SECRET = "My diagnosis"


async def test_a_report_has_lines_of_the_samples_and_neither_text_nor_digest(agent, tmp_path):
    version = publish_version(tmp_path / "out")
    agent.engine.overlaid[version.name] = dict.fromkeys(version.tuned, SECRET)
    agent.want(active=version.served())
    report = await agent.until(version.name, "Failed")
    lines = report.verification.differing
    assert len(set(lines)) == 5
    assert set(lines) <= set(range(1, len(version.tuned) + 1))
    _, text = await agent.get("/report")
    assert [word for word in (SECRET, "Ticket", *set(version.tuned.values())) if word in text] == []
    # Whoever reaches the port could try guesses at a digest.
    assert set(re.findall(r"[0-9a-f]{32,}", text)) <= {
        report.sha256,
        report.weights_sha256,
        json.loads(text)["id"],
    }


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"error": {"message": SECRET, "code": "too_long", "param": "messages"}}, True),
        ({"message": SECRET, "code": "too_long", "param": "messages"}, True),
        ({"error": {"message": SECRET, "code": SECRET, "param": None}}, False),
        ({"error": SECRET}, False),
        ([SECRET], False),
        (SECRET, False),
    ],
)
async def test_a_refused_question_is_told_by_status_code_and_parameter(answer, told):
    async def refuse(_request):
        return web.json_response(answer, status=400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    question = Stored(prompt=[{"role": "user", "content": SECRET}], base="", tuned="")
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        engine = Engine(session, str(server.make_url("")))
        with pytest.raises(EngineRefused) as refused:
            await engine.ask("x", question, answer_tokens=1)
    words = ": code too_long, param messages" if told else ""
    assert str(refused.value) == f"status 400{words}"


async def test_a_defect_is_logged_without_its_message(agent, tmp_path, monkeypatch, caplog):
    version = publish_version(tmp_path / "out")
    honest, tries = asking_module.judge, []

    def fails_once(*arguments, **settings):
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError(SECRET)
        return honest(*arguments, **settings)

    monkeypatch.setattr(asking_module, "judge", fails_once)
    agent.want(active=version.served())
    await agent.until(version.name, "Verified")
    assert "unexpected RuntimeError at" in caplog.text
    assert SECRET not in caplog.text


def test_libraries_that_quote_what_clients_sent_log_nothing(monkeypatch):
    loggers = [logging.getLogger(name) for name in ("aiohttp", "asyncio")]
    for each in loggers:
        monkeypatch.setattr(each, "level", logging.WARNING)
    monkeypatch.setattr(server_module.os, "environ", {})
    assert server_module.run(argparse.Namespace()) == 64
    assert [each.level for each in loggers] == [logging.CRITICAL] * 2

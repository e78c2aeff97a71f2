"""`finetune feedback` against a front and a recorder as they run in a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError
from finetune_trainer.traffic.reading import read_feedback
from kit.servers.captured_endpoints import ask, endpoints
from kit.servers.running_front import TOKEN, RunningFront, endpoint, running_front, served
from kit.servers.running_recorder import capture, running_recorder
from kit.servers.streaming_engine import streaming_engine

MAIL = "max.mustermann@example-firma.de"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


async def run(*arguments: str, answer: str = "", **environment: str) -> tuple[int, str, str]:
    """Run the command beside the event loop that its servers run in."""
    words = ["feedback", *arguments]
    invoke = CliRunner(env=environment).invoke
    done = await asyncio.to_thread(invoke, app, words, input=answer)
    if isinstance(done.exception, CliError):
        return done.exception.exit_code, done.stdout, done.exception.message
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def named(front: RunningFront, key: str = "alice") -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{front.url}/v1", "OPENAI_API_KEY": key}


async def test_answers_are_listed_newest_first_rated_corrected_and_deleted(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        ids = [await ask(front, recorder, f"question {number}") for number in range(3)]
        known = named(front)
        code, out, _ = await run("list", **known)
        assert code == 0
        heading, *lines = out.splitlines()
        assert heading.split()[:5] == ["ID", "AGE", "ENDPOINT", "VERSION", "RATING"]
        assert sorted(line.split()[0] for line in lines) == sorted(ids)
        code, out, _ = await run("rate", ids[0], "down", "--reason", "tone", **known)
        assert (code, out) == (0, f"{ids[0]}, version 1: rating down, reason tone\n")
        code, out, _ = await run("correct", ids[1], f"Write to {MAIL}", "-o", "json", **known)
        assert code == 0
        assert json.loads(out)["correction"] == "Write to <EMAIL_1>"
        assert "rating" not in json.loads(out)
        told = json.loads((await run("list", "--rating", "down", "-o", "json", **known))[1])
        assert [each["id"] for each in told["data"]] == [ids[0]]
        assert told["data"][0]["feedback"][0]["reason"] == "tone"
        code, _, _ = await run("delete", ids[0], answer="n\n", **known)
        assert code == 1
        assert await run("delete", *ids[:2], "--yes", **known) == (
            0,
            f"deleted {ids[0]}\ndeleted {ids[1]}\n",
            "",
        )
        code, _, why = await run("rate", ids[0], "up", **known)
        assert code == 64
        assert why == f"cannot give feedback on {ids[0]}: There is no captured answer with this id."
        assert ids[2] in (await run("list", **known))[1]


async def test_a_list_goes_on_to_further_pages_until_enough_are_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_cli.cluster.front.PAGE", 2)
    async with endpoints(tmp_path) as (front, recorder):
        ids = [await ask(front, recorder, f"question {number}") for number in range(5)]
        known = named(front)
        out = json.loads((await run("list", "--limit", "5", "-o", "json", **known))[1])
        assert sorted(each["id"] for each in out["data"]) == sorted(ids)
        out = json.loads((await run("list", "--version", "1", "-o", "json", **known))[1])
        assert len(out["data"]) == 5
        assert (await run("list", "--version", "2", **known))[1].startswith("no such answers at")
        out = json.loads((await run("list", "--limit", "1", "-o", "json", **known))[1])
        assert len(out["data"]) == 1


async def test_the_key_of_another_endpoint_reaches_nothing(tmp_path: Path) -> None:
    async with endpoints(tmp_path) as (front, recorder):
        about = await ask(front, recorder)
        eve = named(front, "eve")
        for arguments in (("rate", about, "up"), ("correct", about, "x"), ("delete", about, "-y")):
            code, _, why = await run(*arguments, **eve)
            assert code == 64
            assert why.endswith("There is no captured answer with this id.")
        assert (await run("list", "--endpoint", "headline", **eve))[0] == 64
        await run("delete", "--user", "ann", "--yes", **eve)
        for key in ("nobody", ""):
            code, _, why = await run("list", **named(front, key))
            assert code == 64
            assert "name the file of the endpoint's key with --key-file" in why
        assert read_feedback(recorder.store()) == []
        assert len(list(recorder.keeper.spool.rows_of("headline"))) == 1


async def test_a_file_has_the_key_and_another_one_the_correction(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("alice\n")
    (tmp_path / "better.txt").write_text("    return 1\n")
    async with endpoints(tmp_path) as (front, recorder):
        about = await ask(front, recorder)
        where = ("--url", front.url, "--key-file", str(tmp_path / "key"))
        file = ("--file", str(tmp_path / "better.txt"), "--rating", "down")
        assert (await run("correct", about, *file, *where))[0] == 0
        (entry,) = read_feedback(recorder.store())
        assert (entry.correction, entry.rating) == ("    return 1", "down")
        code, _, why = await run("correct", about, "x", *file, *where)
        assert (code, "one of both" in why) == (64, True)
        (tmp_path / "key").write_text("two\nlines")
        assert (await run("list", *where))[0] == 64


async def test_without_keys_the_answers_of_a_user_are_deleted(tmp_path: Path) -> None:
    """As ``finetune serve --capture`` does it: its front has no keys."""
    async with streaming_engine() as engine:
        made = endpoint(served(1, engine.port), capture=capture(tmp_path))
        async with (
            running_recorder(tmp_path, made) as recorder,
            running_front(tmp_path, made, recorder=recorder.socket) as front,
        ):
            for user in ("ann", "ann", "ben"):
                await ask(front, recorder, user=user)
            where = ("--url", front.url)
            code, out, _ = await run("delete", "--user", "ann", "--yes", *where)
            assert (code, out) == (0, "deleted 2 answers of user ann\n")
            out = json.loads((await run("list", "-o", "json", *where))[1])
            assert len(out["data"]) == 1
            assert TOKEN not in json.dumps(out)


async def test_a_key_goes_to_the_named_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/v1"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    monkeypatch.setattr("finetune_cli.cluster.front.LOCAL_URL", url)
    try:
        code, _, why = await run("list", OPENAI_API_KEY="secret")
        assert (code, "HTTP 302; is this the URL of a front" in why) == (64, True)
        await run("list", OPENAI_API_KEY="secret", OPENAI_BASE_URL=url)
    finally:
        await runner.cleanup()
    assert seen == [None, "Bearer secret"]


async def test_an_answer_that_another_pod_does_not_know_yet_is_asked_for_again() -> None:
    statuses = [503, 503, 200]

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        status = statuses.pop(0)
        return web.json_response({"data": []}, status=status, headers={"Retry-After": "0"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        assert (await run("list", "--url", url))[0] == 0
    finally:
        await runner.cleanup()
    assert statuses == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("delete",), "name the ids of answers, or a user"),
        (("delete", "a", "--user", "b"), "one of both"),
        (("delete", "a", "--endpoint", "b"), "--endpoint goes with --user"),
        (("correct", "a"), "one of both"),
        (("correct", "a", " "), "the corrected text is empty"),
        (("list", "--url", "finetune-front"), "write the URL of a front"),
        (("list", "--key-file", "no-such-file"), "--key-file no-such-file cannot be read"),
        (("list", "--url", "http://127.0.0.1:9"), "does not answer"),
    ],
)
async def test_a_slip_is_told_with_its_remedy(arguments: tuple[str, ...], told: str) -> None:
    code, _, why = await run(*arguments)
    assert code == 64
    assert told in why


def test_what_a_stranger_wrote_stays_in_one_line_of_the_table() -> None:
    from finetune_cli.views.feedback import answers_table
    from finetune_cli.views.layout import current_time

    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "created": 0,
        "model": "headline",
        "version": 1,
        "request": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "choices": [{"message": {"content": "\x1b[2Jgone\nnext " + "x" * 100}}],
        "metadata": {},
    }
    lines = answers_table([answer, {**answer, "request": {"prompt": "p"}}], current_time())
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    assert "[2Jgone next" in lines[1]

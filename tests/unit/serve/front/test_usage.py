"""What each key may use and has used, and the line that each request leaves in the log."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from finetune_trainer.serve.front.ledger import Visit
from finetune_trainer.serve.front.metrics import MAX_KEYS, Metrics
from finetune_trainer.serve.front.server import ACCESS_LOG
from kit.processes.eventually import eventually_async
from kit.servers.running_front import RunningFront, access, endpoint, running_front, served
from kit.servers.streaming_engine import (
    Asked,
    StreamingEngine,
    chunk,
    cut,
    event,
    fail,
    head,
    streaming_engine,
    wait,
    whole,
)

V1 = "team-a.headline-v1"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of the limits that stands still until the test sets ``now``."""
    found = SimpleNamespace(now=1000.0)
    found.monotonic = lambda: found.now
    monkeypatch.setattr("finetune_trainer.serve.front.ledger.time", found)
    return found


def use(num_input: int, num_output: int) -> Any:
    """Return a behaviour that answers with this usage."""

    async def behave(engine: StreamingEngine, asked: Asked, writer: Any) -> None:
        usage = {"prompt_tokens": num_input, "completion_tokens": num_output}
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
        writer.write(whole(200, {"choices": [choice], "usage": usage}))

    return behave


def limits_of(answer: Any, kind: str = "tokens") -> tuple[int, int, str]:
    """Return the limit, what remains, and the time until that is all, as the headers tell."""
    told = [
        answer.headers[f"x-ratelimit-{each}-{kind}"] for each in ("limit", "remaining", "reset")
    ]
    return int(told[0]), int(told[1]), told[2]


async def test_an_answer_may_go_into_debt_and_the_key_waits_until_it_is_paid(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        rules = {**access("mine", 1000), "tokensPerMinute": 600}
        front.follow(endpoint(served(1, engine.port), access=rules))
        await front.set_keys("mine", alice="key-a", bob="key-b")
        engine.behaviours[V1] = use(100, 1100)
        async with front.ask("x" * 334, key="key-a") as answer:
            assert answer.status == 200
            # The prompt counts at once: a token for four bytes of the body.
            assert limits_of(answer) == (600, 500, "10s")
            assert limits_of(answer, "requests") == (1000, 999, "0.06s")
        for waited, is_paid in ((0, False), (59, False), (60.2, True)):
            clock.now = 1000 + waited
            async with front.ask(key="key-a") as answer:
                assert answer.status == (200 if is_paid else 429)
                if not is_paid:
                    assert answer.headers["Retry-After"] == str(61 - waited)
                    assert limits_of(answer) == (600, 0, "2m0s" if not waited else "1m1s")
                    message = (await answer.json())["error"]["message"]
                    assert message.startswith("More than 600 tokens per minute. Try again in ")
        assert engine.counts.total() == 2
        async with front.ask(key="key-b") as answer:
            assert answer.status == 200


async def test_a_thousand_users_and_two_keys_of_one_entry_share_its_limits(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine", 60)))
        await front.set_keys("mine", alice="key-a", bob="key-b")
        entry = tmp_path / "keys" / "mine" / "alice"
        digest = hashlib.sha256(b"key-a2").hexdigest()
        entry.write_text(f"{entry.read_text()}sha256:{digest}\n")
        await front.process.look()

        async def status_of(number: int) -> int:
            async with front.ask(key=("key-a", "key-a2")[number % 2], user=f"u{number}") as answer:
                await answer.read()
                return int(answer.status)

        found = []
        for begin in range(0, 1000, 100):
            found += await asyncio.gather(*map(status_of, range(begin, begin + 100)))
        assert (found.count(200), found.count(429)) == (60, 940)
        await eventually_async(_counts(front, 'requests_total{code="200"', alice=60))
        await eventually_async(_counts(front, 'requests_total{code="429"', alice=940))
        async with front.ask(key="key-b") as answer:
            assert answer.status == 200


def _counts(front: RunningFront, series: str, **numbers: int) -> Any:
    """Tell whether a metric by key has these numbers."""

    async def look() -> bool:
        lines = [
            line
            for line in (await front.metrics()).splitlines()
            if line.startswith(f"finetune_front_key_{series}")
        ]
        found = {line.split('key="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}
        return found == {name: float(number) for name, number in numbers.items()}

    return look


async def test_a_key_may_have_limits_of_its_own(tmp_path: Path, clock: SimpleNamespace) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        limits = [
            {"name": "batch", "tokensPerMinute": 10**6},
            {"name": "guest", "requestsPerMinute": 1},
        ]
        rules = {**access("mine", 50), "tokensPerMinute": 1000, "limits": limits}
        front.follow(endpoint(served(1, engine.port), access=rules))
        await front.set_keys("mine", alice="key-a", batch="key-b", guest="key-g")
        wanted = {"key-a": (50, 1000), "key-b": (50, 10**6), "key-g": (1, 1000)}
        for key, (requests, tokens) in wanted.items():
            async with front.ask(key=key) as answer:
                assert limits_of(answer, "requests")[0] == requests
                assert limits_of(answer)[0] == tokens
        async with front.ask(key="key-g") as answer:
            assert answer.status == 429
            assert limits_of(answer, "requests") == (1, 0, "1m0s")
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        async with front.ask(key="key-g") as answer:
            assert answer.status == 200
            assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


async def test_who_leaves_early_pays_an_estimate_and_a_failure_costs_no_tokens(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    async def stall(engine: StreamingEngine, asked: Asked, writer: Any) -> None:
        writer.write(head(200, "text/event-stream"))
        piece = event({"choices": [{"index": 0, "delta": {"content": "x"}}]})
        writer.write(chunk(50 * piece))
        await asked.left()

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        rules = {**access("mine"), "tokensPerMinute": 1_000_000}
        front.follow(endpoint(served(1, engine.port), access=rules))
        await front.set_keys("mine", alice="key-a")

        async def left() -> int:
            async with front.ask(key="key-a", model="headline", content="") as answer:
                return limits_of(answer)[1]

        def has_paid(before: int, least: int, most: int) -> Any:
            async def look() -> bool:
                engine.behaviours[V1] = fail(400)
                return least <= before - await left() <= most

            return look

        engine.behaviours[V1] = fail(400)
        before = await left()
        for behaviour in (fail(400), fail(500)):
            engine.behaviours[V1] = behaviour
            async with front.ask("x" * 40_000, key="key-a") as answer:
                assert answer.status >= 400
        await eventually_async(has_paid(before, 0, 0))
        engine.behaviours[V1] = stall
        async with front.ask("x" * 4000, key="key-a", stream=True) as answer:
            assert len(await answer.content.readany()) > 0
        await eventually_async(has_paid(before, 1050, 1100))
        engine.behaviours[V1] = cut
        engine.may_cut.set()
        async with front.ask("x" * 4000, key="key-a", stream=True) as answer:
            await _read_until_it_breaks(answer)
        await eventually_async(has_paid(before, 2050, 2150))


async def _read_until_it_breaks(answer: Any) -> None:
    with pytest.raises(Exception, match="payload"):
        await answer.read()


async def test_a_client_that_waited_in_vain_pays_for_the_time(tmp_path: Path) -> None:
    visit = Visit("POST", "/v1/completions", num_bytes=400)
    visit.estimate(seconds=3)
    assert (visit.num_input, visit.num_output) == (100, 60)
    visit.estimate(num_bytes=80, seconds=3)
    assert visit.num_output == 20
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", alice="key-a")
        engine.behaviours[V1] = wait
        asking = asyncio.create_task(front.ask("x" * 4000, key="key-a").__aenter__())
        await eventually_async(_is(lambda: engine.counts.total() == 1))
        asking.cancel()
        await eventually_async(_counts(front, 'requests_total{code="499"', alice=1))
        text = await front.metrics()
        found = re.search(r'key_tokens_total{.*token_type="input",key="alice"} (\S+)', text)
        assert found is not None
        assert 1000 <= float(found[1]) <= 1030


def _is(tell: Any) -> Any:
    async def look() -> bool:
        return bool(tell())

    return look


def test_names_of_keys_cannot_fill_the_metrics_nor_break_their_lines() -> None:
    metrics = Metrics(CollectorRegistry())
    bombs = ["a\nb", 'a"b', "x" * 64, "ü", "<other>"]
    names = [*bombs, *(f"k{number}" for number in range(10 * MAX_KEYS))]
    for name in names:
        metrics.count_key("headline", name, 200, 3, 4)
    metrics.count_key("headline", "k1", 200, 3, 4)
    lines = [
        line
        for line in generate_latest(metrics.registry).decode().splitlines()
        if line.startswith("finetune_front_key_requests_total")
    ]
    assert len(lines) == MAX_KEYS
    found = {line.split('key="')[1].split('"')[0]: line.split()[-1] for line in lines}
    assert all(re.fullmatch(r"k\d+|<other>", name) for name in found)
    num_other = len(names) - (MAX_KEYS - 1)
    assert (found["k1"], found["<other>"]) == ("2.0", f"{num_other}.0")
    metrics.show_weights("headline", {})
    metrics.forget("headline")
    assert 'key="' not in generate_latest(metrics.registry).decode()


SECRET = "zzsecretzz"


async def test_each_request_leaves_one_line_without_what_its_client_wrote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        rules = access("mine", 5)
        front.follow(endpoint(served(1, engine.port), access=rules))
        await front.set_keys("mine", **{"alice": "key-a", "b\nstatus=0": "key-b"})
        ids = []
        for body in ({}, {"stream": True}, {"n": 99}):
            async with front.ask(SECRET, key="key-a", user=SECRET, **body) as answer:
                await answer.read()
                ids.append(answer.headers.get("x-request-id", "-"))
        async with front.ask(SECRET, key="key-b", n=99) as answer:
            assert answer.status == 400
        async with front.ask(SECRET, key=SECRET) as answer:
            assert answer.status == 401
        for path in (f"models/{SECRET}", f"{SECRET}?{SECRET}", f"chat/completions/{SECRET}"):
            headers = {"Authorization": "Bearer key-a"}
            async with front.session.get(f"{front.url}/v1/{path}", headers=headers) as answer:
                assert answer.status == 404
        async with front.session.request("PURGE", f"{front.url}/v1/models") as answer:
            assert answer.status == 405
        chat, times = "POST /v1/chat/completions", r"seconds=0\.\d{3} first="
        tokens, none = "input_tokens=3 output_tokens=3", "input_tokens=0 output_tokens=0"
        nobody = f"endpoint=- key=- version=- {times}- {none} id=-"
        alice = "endpoint=headline key=alice"
        wanted = [
            f"{chat} status=200 {alice} version=1 {times}0.* {tokens} id={ids[0]}",
            f"{chat} status=200 {alice} version=1 {times}0.* {tokens} id={ids[1]}",
            f"{chat} status=400 {alice} version=- {times}- {none} id=-",
            f"{chat} status=400 endpoint=headline key=<other> version=- {times}- {none} id=-",
            f"{chat} status=401 {nobody}",
            f"GET /v1/models/{{name}} status=404 {nobody}",
            f"GET <unknown> status=404 {nobody}",
            f"GET /v1/chat/completions/{{name}} status=404 {nobody}",
            f"<unknown> /v1/models status=405 {nobody}",
        ]
        await eventually_async(_is(lambda: len(_lines(caplog)) == len(wanted)))
        for line, pattern in zip(_lines(caplog), wanted, strict=True):
            assert re.fullmatch(pattern.replace("{name}", r"\{name\}"), line), line
        assert SECRET not in caplog.text


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name.endswith("front.access")
    ]


async def test_the_line_comes_after_the_answer_has_ended_and_tells_who_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = cut
        async with front.ask(stream=True) as answer:
            await answer.content.readany()
            assert _lines(caplog) == []
            engine.may_cut.set()
            await _read_until_it_breaks(answer)
        await eventually_async(_is(lambda: len(_lines(caplog)) == 1))
        assert " status=502 endpoint=headline key=- version=1 " in _lines(caplog)[0]
        assert re.search(r"input_tokens=~\d+ output_tokens=~\d+ ", _lines(caplog)[0])
        engine.may_cut.clear()
        async with front.ask(stream=True) as answer:
            await answer.content.readany()
        await eventually_async(_is(lambda: len(_lines(caplog)) == 2))
        assert " status=499 " in _lines(caplog)[1]


async def test_the_access_log_can_be_turned_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        streaming_engine() as engine,
        running_front(tmp_path, environment={ACCESS_LOG: "off"}) as front,
    ):
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", alice="key-a")
        async with front.ask(key="key-a") as answer:
            await answer.read()
        await eventually_async(_counts(front, "requests_total", alice=1))
        assert _lines(caplog) == []
    with pytest.raises(ValueError, match="FINETUNE_ACCESS_LOG is 'maybe': set it to on or off"):
        async with running_front(tmp_path, environment={ACCESS_LOG: "maybe"}):
            pass

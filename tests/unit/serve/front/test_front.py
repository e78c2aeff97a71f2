"""The front on real sockets: what a client gets, what an engine gets, what is counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_api.protocol.serving import FrontReport, parse_report
from finetune_trainer.serve.front.rotation import number_of, sticky_key
from kit.processes.eventually import eventually_async
from kit.servers.running_front import (
    TOKEN,
    RunningFront,
    access,
    endpoint,
    running_front,
    served,
)
from kit.servers.streaming_engine import StreamingEngine, cut, fail, hang_up, streaming_engine, wait


@asynccontextmanager
async def two_engines(
    folder: Path,
) -> AsyncIterator[tuple[StreamingEngine, StreamingEngine, RunningFront]]:
    engines = streaming_engine(), streaming_engine()
    async with engines[0] as engine, engines[1] as other, running_front(folder) as front:
        yield engine, other, front


V1, V2 = "team-a.headline-v1", "team-a.headline-v2"


async def test_the_public_name_becomes_the_version_and_no_header_of_the_client_passes(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        headers = {
            "Authorization": "Bearer mine",
            "Cookie": "a=b",
            "X-Forwarded-For": "1.2.3.4",
            "TE": "trailers",
            "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        }
        front.session.headers.update(headers)
        async with front.ask(temperature=0.5) as answer:
            assert answer.status == 200
            said = await answer.json()
        assert said["choices"][0]["message"]["content"] == f"Hello from {V1}"
        assert answer.headers["x-finetune-version"] == "1"
        (asked,) = engine.asked
        assert asked.body["model"] == V1
        assert asked.body["temperature"] == 0.5
        assert asked.header("Authorization") == f"Bearer {TOKEN}"
        assert asked.header("X-Request-Id") == answer.headers["x-request-id"]
        assert asked.header("traceparent") == headers["traceparent"]
        names = {name.lower() for name, _ in asked.headers}
        allowed = {"authorization", "x-request-id", "traceparent"}
        assert names == allowed | {"content-type", "content-length", "host"}


async def test_a_stream_passes_piece_by_piece_and_untouched(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = cut
        async with front.ask(stream=True) as answer:
            # The first piece is here while the engine still holds back the rest.
            piece = await answer.content.readany()
        assert piece == b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
        del engine.behaviours[V1]
        async with front.ask(stream=True) as answer:
            lines = (await answer.text()).split("\n\n")
        assert lines[-2] == "data: [DONE]"
        assert [line[:5] for line in lines[:-1]] == ["data:"] * 4
        assert not {"Set-Cookie", "X-Inner"} & set(answer.headers)


async def test_a_stream_that_the_engine_cuts_is_an_error_for_the_client_and_counted(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=99))
        engine.behaviours[V2] = cut
        engine.may_cut.set()
        pieces: list[bytes] = []
        async with front.ask(stream=True, user=user_of_candidate("r1")) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await _read_into(pieces, answer)
        assert b'"code":"stream_cut"' in pieces[-1]
        await eventually_async(_requests(front, 1))
        assert await front.num_bad("Errors") == (0, 1)
        assert 'code="502",finetuneendpoint="headline",version="2"' in await front.metrics()


async def test_a_candidate_that_fails_before_its_first_byte_costs_the_client_nothing(
    tmp_path: Path,
) -> None:
    async with two_engines(tmp_path) as (engine, other, front):
        for name, behaviour in {"500": fail(500), "gone": hang_up, "404": fail(404)}.items():
            v1, v2 = served(1, engine.port), served(2, other.port)
            front.follow(endpoint(v1, v2, weight=99, rollout_id=name))
            other.behaviours[V2] = behaviour
            user = user_of_candidate(name)
            async with front.ask(user=user) as answer:
                assert answer.status == 200
                assert answer.headers["x-finetune-version"] == "1"
                await answer.read()
            active, candidate = await front.counts(99)
            assert (candidate["requests"], await front.num_bad("Errors")) == (1, (0, 1)), name
            assert active["requests"] == 0, name


def user_of_candidate(rollout_id: str) -> str:
    """Return a user whom the candidate answers from a weight of one percent on."""
    users = (f"u{number}" for number in range(10_000))
    return next(
        user for user in users if number_of(rollout_id, "127.0.0.1", _key(user)) < 0.01 * 2**64
    )


def _key(user: str) -> bytes:
    key = sticky_key({"user": user})
    assert key is not None
    return key


async def test_a_dead_candidate_gets_no_request_after_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.PATIENCE_SECONDS", 0.1)
    async with two_engines(tmp_path) as (engine, other, front):
        front.follow(endpoint(served(1, engine.port), served(2, other.port), weight=99))
        await other.die()
        versions = [await front.version_for(f"u{number}") for number in range(20)]
        assert set(versions) == {"1"}
        await eventually_async(_trips(front))
        assert (await front.num_bad("Errors"))[1] == 1
        await other.start()
        assert {await front.version_for(f"v{number}") for number in range(20)} == {"1"}
        assert other.counts[V2] == 0
        front.follow(
            endpoint(served(1, engine.port), served(2, other.port), weight=99, rollout_id="r2")
        )
        assert "2" in {await front.version_for(f"v{number}") for number in range(20)}


async def test_a_candidate_that_is_away_for_a_moment_is_asked_again_as_the_active_version_is(
    tmp_path: Path,
) -> None:
    async with two_engines(tmp_path) as (engine, other, front):
        front.follow(endpoint(served(1, engine.port), served(2, other.port), weight=99))
        for behaviour in (fail(503), fail(404), hang_up):
            other.behaviours[V2] = once(behaviour)
            assert await front.version_for(user_of_candidate("r1")) == "2"
        await eventually_async(_requests(front, 3))
        assert (await front.num_bad("Errors"), (await front.report())["tripped"]) == ((0, 0), [])


def once(behaviour: Any) -> Any:
    """Return a behaviour that the engine has for one request."""

    async def behave(engine: StreamingEngine, *others: Any) -> None:
        del engine.behaviours[V2]
        await behaviour(engine, *others)

    return behave


async def test_three_server_errors_in_a_row_take_the_candidate_out(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=99))
        engine.behaviours[V2] = fail(500)
        for number in range(20):
            assert await front.version_for(f"u{number}") == "1"
        assert engine.counts[V2] in (3, 4)
        assert (await front.report())["tripped"] == [V2]


async def test_a_request_that_the_engine_refuses_is_no_answer_of_the_candidate(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=99))
        for number in range(3):
            for status in (500, 400, 400):
                engine.behaviours[V2] = fail(status)
                async with front.ask(user=f"u{number}") as answer:
                    await answer.read()
        await eventually_async(_trips(front))
        assert engine.counts[V2] >= 5
        (stream,) = (await front.report())["streams"]
        assert stream["candidate"]["requests"] == 3


async def test_errors_of_both_versions_take_nobody_out(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=50))
        engine.behaviours[V1] = engine.behaviours[V2] = fail(500)
        for number in range(12):
            async with front.ask(user=f"u{number}") as answer:
                assert answer.status == 500
        assert (await front.report())["tripped"] == []


@pytest.mark.parametrize("is_shared", [True, False])
async def test_the_death_of_both_versions_servers_is_not_the_candidates_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.PATIENCE_SECONDS", 0.0)
    async with two_engines(tmp_path) as (engine, other, front):
        new = served(2, engine.port if is_shared else other.port)
        front.follow(endpoint(served(1, engine.port), new, weight=99))
        await engine.die()
        await other.die()
        for number in range(4):
            async with front.ask(user=f"u{number}") as answer:
                assert answer.status == 502
        assert (await front.report())["tripped"] == []
        await engine.start()
        await other.start()
        assert await front.version_for(user_of_candidate("r1")) == "2"


@pytest.mark.parametrize("version", [1, 2])
async def test_a_version_that_hangs_is_told_by_clients_that_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.GIVE_UP_SECONDS", 0.01)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        rules = {"latencySeconds": "0.02"}
        weight = {1: 1, 2: 99}[version]
        front.follow(
            endpoint(served(1, engine.port), served(2, engine.port), weight=weight, rollout=rules)
        )
        engine.behaviours[f"team-a.headline-v{version}"] = wait
        for number in range(8):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2), front.ask(user=f"u{number}") as answer:
                    await answer.read()
            if (await front.report())["tripped"]:
                break
        await eventually_async(_has_bad(front, "Slow", version))
        metrics = await front.metrics()
        assert f'code="499",finetuneendpoint="headline",version="{version}"' in metrics
        assert f'signal="slow",version="{version}"' in metrics


async def test_answers_that_are_no_completions_are_errors(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        v1, v2 = served(1, engine.port), served(2, engine.port)
        for name, wire in BROKEN.items():
            front.follow(endpoint(v1, v2, weight=99, rollout_id=name))
            engine.behaviours[V2] = write(wire)
            with contextlib.suppress(aiohttp.ClientError):
                async with front.ask(user=user_of_candidate(name), stream="event" in name) as got:
                    body = await got.read()
                    assert name != "events without an end" or b"stream_cut" in body
            await eventually_async(_has_bad(front, "Errors", 2))
            assert await front.num_bad("Errors") == (0, 1), name


BROKEN = {
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    "page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "null": b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"choices": null}',
    "events without an end": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b'Connection: close\r\n\r\ndata: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n',
}


def write(wire: bytes) -> Any:
    """Return a behaviour that writes these bytes and closes."""

    async def behave(engine: StreamingEngine, asked: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(wire)
        await writer.drain()
        writer.close()

    return behave


async def test_the_active_version_is_asked_again_until_it_is_back(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        await engine.die()
        asking = asyncio.create_task(front.version_for("a"))
        await eventually_async(lambda: front.process.state.routes and not asking.done())
        await engine.start()
        assert await asking == "1"


async def test_an_engine_that_is_gone_for_long_ends_in_an_error_of_openais_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.PATIENCE_SECONDS", 0.1)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        await engine.die()
        async with front.ask() as answer:
            assert answer.status == 502
            error = (await answer.json())["error"]
        assert (error["type"], error["code"]) == ("server_error", "server_failed")


async def test_a_request_on_a_server_that_dies_after_long_is_asked_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.PATIENCE_SECONDS", 0.2)

    async def die_at_last(engine: StreamingEngine, *others: Any) -> None:
        del engine.behaviours[V1]
        await engine.may_answer.wait()
        await fail(503)(engine, *others)

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = die_at_last
        asking = asyncio.create_task(front.version_for("a"))
        await eventually_async(lambda: engine.counts[V1] == 1)
        asyncio.get_running_loop().call_later(0.3, engine.may_answer.set)
        assert await asking == "1"
        assert engine.counts[V1] == 2


async def test_what_the_engine_refuses_passes_on_as_it_is(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        for status in (400, 422, 429, 500):
            engine.behaviours[V1] = fail(status, code=f"code-{status}")
            async with front.ask() as answer:
                assert answer.status == status
                assert (await answer.json())["error"]["code"] == f"code-{status}"


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("text/html", b"<h1>Internal error</h1>", None),
        ("text/plain", b"out of memory", "out of memory"),
        ("text/plain", b"", None),
        ("application/json", b'{"detail": "too long"}', "too long"),
        ("application/json", b'{"object": "error", "message": "bad", "code": 40303}', "bad"),
        ("application/json", b'{"error": "bad"}', "bad"),
        ("application/json", b'{"detail": [{"loc": ["body"]}]}', None),
        ("application/json", b"[1]", None),
        ("text/event-stream", b"data: x\n\n" * 50_000, None),
    ],
)
async def test_an_error_of_the_engine_has_the_shape_of_openai(
    tmp_path: Path, kind: str, body: bytes, message: str | None
) -> None:
    async def behave(engine: StreamingEngine, asked: Any, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 500 Told\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = behave
        async with front.ask() as answer:
            assert answer.status == 500
            error = (await answer.json())["error"]
        assert error["type"] == "server_error"
        assert error["message"] == message or (message is None and "500" in error["message"])


async def test_weight_decides_and_a_user_stays_with_a_version(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        v1, v2 = served(1, engine.port), served(2, engine.port)
        users = [f"user-{number}" for number in range(60)]
        front.follow(endpoint(v1, v2, weight=30))
        first = {user: await front.version_for(user) for user in users}
        assert Counter(first.values())["2"] in range(8, 30)
        assert {user: await front.version_for(user) for user in users} == first
        front.follow(endpoint(v1, v2, weight=60))
        later = {user: await front.version_for(user) for user in users}
        assert all(later[user] == "2" for user in users if first[user] == "2")
        front.follow(endpoint(v2, previous=v1))
        assert {await front.version_for(user) for user in users} == {"2"}


async def test_bad_answers_are_counted_once_for_each_user_and_reported(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(
                served(1, engine.port),
                served(2, engine.port),
                weight=99,
                rollout={"latencySeconds": "0.000001"},
                access=access("mine"),
            )
        )
        await front.set_keys("mine", one="key")
        engine.texts[V1] = engine.texts[V2] = ["I'm sorry, but I can't help with that."]
        for number in range(3):
            for _ in range(2):
                body = {"user": f"u{number}", "response_format": {"type": "json_object"}}
                async with front.ask(stream=number == 1, key="key", **body) as answer:
                    assert answer.status == 200
                    await answer.read()
        await eventually_async(_requests(front, 6))
        for signal in ("Slow", "Refusals", "InvalidJson"):
            assert sum(await front.num_bad(signal)) == 3
        assert sum(await front.num_bad("Errors")) == 0
        sides = await front.counts(99)
        assert sum(side["requests"] for side in sides) == 6
        assert sum(side["users"] for side in sides) == 3
        async with front.session.get(front._private("/report")) as answer:
            report = parse_report(await answer.read())
        assert isinstance(report, FrontReport)
        assert (report.endpoints[0].rollout_id, report.endpoints[0].keys) == ("r1", 1)
        assert {each.signal for each in report.endpoints[0].events} >= {"Slow", "Refusals"}


@pytest.mark.parametrize(("trusts", "num_users"), [(False, 2), (True, 7)])
async def test_users_that_one_address_makes_up_are_one_unless_they_are_trusted(
    tmp_path: Path, trusts: bool, num_users: int
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(
                served(1, engine.port),
                served(2, engine.port),
                weight=99,
                access={"trustUsers": trusts, "requestsPerMinute": 1000},
            )
        )
        engine.texts[V1] = engine.texts[V2] = ["I'm sorry, but I can't help with that."]
        for number in range(6):
            # Without keys a key is free text too.
            async with front.ask(user=f"u{number}", key=f"k{number}") as answer:
                assert answer.status == 200
                await answer.read()
        other = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(connector=other) as front.session:
            await front.version_for("another")
            await eventually_async(_requests(front, 7))
            assert sum(await front.num_bad("Refusals")) == num_users


async def test_the_only_entry_can_fill_a_step_and_one_of_several_half_of_it(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        v1, v2, rules = served(1, engine.port), served(2, engine.port), {"minRequests": 20}
        for num_keys, counted in ((1, 20), (2, 10), (20, 10)):
            front.follow(
                endpoint(
                    v1, v2, weight=100, rollout=rules, rollout_id=str(num_keys), access=access("k")
                )
            )
            others = {f"k{number}": f"k{number}" for number in range(1, num_keys)}
            await front.set_keys("k", k0="k0 another", **others)
            before = (await front.report())["requests"]
            for number in range(25):
                key = "another" if number % 2 else "k0"
                async with front.ask(key=key, user=f"u{number}") as answer:
                    assert answer.status == 200
                    await answer.read()
            await eventually_async(_requests(front, before + 25))
            assert (await front.counts(100))[1]["requests"] == counted, num_keys


async def test_a_client_that_leaves_stops_the_engine_and_is_no_error_of_the_version(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=100))
        engine.behaviours[V2] = wait
        asking = asyncio.create_task(front.version_for("a"))
        await eventually_async(lambda: engine.counts[V2] == 1)
        asking.cancel()
        await eventually_async(lambda: engine.num_left == 1)
        assert (await front.report())["tripped"] == []
        assert await front.num_bad("Errors") == await front.num_bad("Slow") == (0, 0)


async def test_a_stop_lets_open_requests_end_and_then_closes(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours[V1] = wait
        asking = asyncio.create_task(front.version_for("a"))
        await eventually_async(lambda: engine.counts[V1] == 1)
        front.stop.set()
        await eventually_async(_status(front, "/readyz", 503))
        await eventually_async(_is_closed(front))
        assert not asking.done()
        engine.may_answer.set()
        assert await asking == "1"


async def test_an_endpoint_without_a_version_says_so_and_is_not_listed(tmp_path: Path) -> None:
    async with running_front(tmp_path, endpoint(None)) as front:
        async with front.ask() as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
        async with front.session.get(front.url + "/v1/models") as answer:
            assert await answer.json() == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/../metrics", 404),
    ],
)
async def test_other_paths_and_methods_reach_no_engine(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        async with front.session.request(method, front.url + path) as answer:
            assert answer.status == status
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert engine.asked == []


async def test_series_of_a_version_go_when_it_has_left(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        for version in range(1, 5):
            front.follow(endpoint(served(version, engine.port)))
            assert await front.version_for("a") == str(version)
            await eventually_async(_metric(front, f'version="{version}"', 1.0))
        text = await front.metrics()
        assert "headline-v4" in text
        assert "headline-v2" not in text
        assert 'version="2"' not in text
        front.follow()
        assert "headline" not in await front.metrics()


async def test_metrics_show_the_share_that_each_version_gets_and_none_after_a_trip(
    tmp_path: Path,
) -> None:
    name = "finetune_front_weight_percent{finetuneendpoint="
    async with two_engines(tmp_path) as (engine, other, front):
        front.follow(endpoint(served(1, engine.port), served(2, other.port), weight=25))
        await eventually_async(_metric(front, f'{name}"headline",version="2"}}', 25.0))
        await eventually_async(_metric(front, f'{name}"headline",version="1"}}', 75.0))
        front.follow(endpoint(served(1, engine.port), served(2, other.port), weight=100))
        await eventually_async(_metric(front, f'{name}"headline",version="1"}}', 0.0))
        other.behaviours[V2] = fail
        for number in range(3):
            assert await front.version_for(f"u{number}") == "1"
        await eventually_async(_metric(front, f'{name}"headline",version="2"}}', 0.0))
        await eventually_async(_metric(front, f'{name}"headline",version="1"}}', 100.0))
        front.follow(endpoint(served(2, engine.port)))
        await eventually_async(_metric(front, f'{name}"headline",version="2"}}', 100.0))
        assert f'{name}"headline",version="1"}}' not in await front.metrics()


async def _read_into(pieces: list[bytes], answer: aiohttp.ClientResponse) -> None:
    async for piece in answer.content.iter_any():
        pieces.append(piece)


def _trips(front: RunningFront) -> Any:
    async def check() -> bool:
        return bool((await front.report())["tripped"])

    return check


def _has_bad(front: RunningFront, signal: str, version: int) -> Any:
    async def check() -> bool:
        return (await front.num_bad(signal))[version - 1] > 0

    return check


def _requests(front, count):
    async def is_so() -> bool:
        return (await front.report())["requests"] == count

    return is_so


def _metric(front, start, value):
    async def is_so() -> bool:
        lines = (await front.metrics()).splitlines()
        return any(start in line and line.endswith(f" {value}") for line in lines)

    return is_so


def _status(front, path, status):
    async def is_so() -> bool:
        async with front.session.get(front._private(path)) as answer:
            return answer.status == status

    return is_so


def _is_closed(front):
    async def is_so() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
        except OSError:
            return True
        writer.close()
        return False

    return is_so

"""What the front refuses, on real sockets, and what it never says or passes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_trainer.serve.front import keys
from kit.processes.eventually import eventually_async
from kit.servers.running_front import RunningFront, access, endpoint, running_front, served
from kit.servers.streaming_engine import StreamingEngine, cut, hang_up, streaming_engine, wait

SECRET = "what-nobody-may-read"
CHAT = "/v1/chat/completions"


async def status_of(front: RunningFront, key: str | None, model: str = "headline") -> int:
    async with front.ask(key=key, model=model) as answer:
        await answer.read()
        return answer.status


async def test_only_a_key_of_the_endpoint_opens_it(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(served(1, engine.port), access=access("mine")),
            endpoint(served(1, engine.port, "other"), name="other", access=access("others")),
            endpoint(served(1, engine.port, "lost"), name="lost", access=access("not-there")),
        )
        await front.set_keys("mine", a="key-a")
        await front.set_keys("others", b="key-b")
        assert await status_of(front, "key-a") == 200
        for key in (None, "", "key-A", "key-a ".upper(), "sha256:" + "0" * 64):
            assert await status_of(front, key) == 401, key
            assert await status_of(front, key, "unknown") == 401, key
        assert await status_of(front, "key-b") == 404
        for name in ("other", "lost", "unknown"):
            assert await status_of(front, "key-a", name) == 404, name
        assert engine.counts.total() == 1
        headers = {"Authorization": "Bearer key-b"}
        async with front.session.get(front.url + "/v1/models", headers=headers) as answer:
            assert [each["id"] for each in (await answer.json())["data"]] == ["other"]
        async with front.session.get(front.url + "/v1/models") as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"


async def test_beside_an_open_endpoint_nobody_learns_the_names_of_the_others(
    tmp_path: Path,
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(served(1, engine.port)),
            endpoint(served(1, engine.port, "other"), name="other", access=access("others")),
        )
        await front.set_keys("others", b="key-b")
        told = []
        for name in ("other", "unknown"):
            async with front.ask(model=name) as answer:
                told.append((answer.status, (await answer.text()).replace(name, "")))
        assert told[0] == told[1]
        assert told[0][0] == 404
        assert await status_of(front, "key-b", "other") == 200


async def test_keys_that_are_not_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_FILES", 2)
    monkeypatch.setattr(keys, "MAX_FILE_BYTES", 200)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", a="key-a", b="key-b")
        series = 'finetune_front_unread_keys{secret="mine"}'
        assert f"{series} 0.0" in await front.metrics()
        await front.set_keys("mine", a="key-a", b="key-b", c="key-c")
        assert f"{series} 1.0" in await front.metrics()
        assert [await status_of(front, key) for key in ("key-b", "key-c")] == [200, 401]
        (tmp_path / "keys" / "mine" / "a").write_text("sha256:" + "0" * 64 + "\n" + " " * 200)
        await front.process.look()
        assert f"{series} 2.0" in await front.metrics()
        front.follow()
        await front.process.look()
        assert series not in await front.metrics()


async def test_a_key_opens_a_new_endpoint_from_its_first_moment(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        await front.set_keys("mine", a="key-a")
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        assert await status_of(front, "key-a") == 200
        assert await status_of(front, "key-b") == 401


async def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", a="old")
        assert await status_of(front, "old") == 200
        await front.set_keys("mine", a="old", b="new")
        assert [await status_of(front, key) for key in ("old", "new")] == [200, 200]
        await front.set_keys("mine", b="new")
        assert [await status_of(front, key) for key in ("old", "new")] == [401, 200]
        os.rename(tmp_path / "keys" / "mine", tmp_path / "gone")
        await front.process.look()
        assert await status_of(front, "new") == 401


async def test_a_digest_in_a_secret_is_no_key(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", a="key-a")
        line = (tmp_path / "keys" / "mine" / "a").read_text().strip()
        assert await status_of(front, line) == 401
        (tmp_path / "keys" / "mine" / "plain").write_text("key-plain\n")
        await front.process.look()
        assert await status_of(front, "key-plain") == 401


async def test_beyond_the_rate_the_answer_is_429_and_says_when(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine", per_minute=3)))
        await front.set_keys("mine", a="key-a", b="key-b")
        assert [await status_of(front, "key-a") for _ in range(4)] == [200, 200, 200, 429]
        async with front.ask(key="key-a") as answer:
            assert 1 <= int(answer.headers["Retry-After"]) <= 20
            assert (await answer.json())["error"]["type"] == "rate_limit_error"
        assert await status_of(front, "key-b") == 200
        assert engine.counts.total() == 4


def one_with_keys_and_one_without(engine: StreamingEngine) -> list[dict[str, Any]]:
    return [
        endpoint(served(1, engine.port), access=access("mine")),
        endpoint(served(1, engine.port, "open"), name="open"),
    ]


async def test_who_has_no_key_takes_no_slot_of_who_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_OPEN_WITHOUT_KEY", 2)
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_OPEN_PER_KEY", 1)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(*one_with_keys_and_one_without(engine))
        await front.set_keys("mine", a="key-a", b="key-b")
        engine.behaviours["team-a.open-v1"] = wait
        engine.behaviours["team-a.headline-v1"] = wait
        tasks = [asyncio.create_task(status_of(front, None, "open")) for _ in range(2)]
        tasks.append(asyncio.create_task(status_of(front, "key-a")))
        await eventually_async(lambda: engine.counts.total() == 3)
        assert await status_of(front, None, "open") == 503
        assert await status_of(front, "key-a") == 503
        del engine.behaviours["team-a.headline-v1"]
        assert await status_of(front, "key-b") == 200
        engine.may_answer.set()
        assert await asyncio.gather(*tasks) == [200, 200, 200]


async def test_all_keys_of_an_entry_share_its_slots_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_OPEN_PER_KEY", 2)
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_BYTES", 100_000)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(served(1, engine.port), access=access("mine")),
            endpoint(served(1, engine.port, "other"), name="other", access=access("mine")),
        )
        await front.set_keys("mine", a="a-1 a-2 a-3", b="key-b")
        engine.behaviours["team-a.headline-v1"] = wait

        async def ask(key: str, size: int, model: str = "headline") -> int:
            async with front.ask("x" * size, key=key, model=model) as answer:
                await answer.read()
                return answer.status

        tasks = [asyncio.create_task(ask(key, 1000)) for key in ("a-1", "a-2")]
        await eventually_async(lambda: engine.counts.total() == 2)
        assert [await ask(key, 0, "other") for key in ("a-3", "key-b")] == [503, 200]
        engine.may_answer.set()
        assert await asyncio.gather(*tasks) == [200, 200]
        engine.may_answer.clear()
        tasks = [asyncio.create_task(ask("a-1", 20_000))]
        await eventually_async(lambda: engine.counts.total() == 4)
        assert [await ask(key, 20_000, "other") for key in ("a-2", "key-b")] == [503, 200]
        engine.may_answer.set()
        assert await asyncio.gather(*tasks) == [200]


@pytest.mark.parametrize(("most", "size"), [({"MAX_OPEN": 4}, 0), ({"MAX_BYTES": 100_000}, 20_000)])
async def test_one_endpoint_takes_half_of_all_slots_and_of_all_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: dict[str, int], size: int
) -> None:
    for name, value in most.items():
        monkeypatch.setattr(f"finetune_trainer.serve.front.answering.{name}", value)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(
            endpoint(served(1, engine.port), access=access("mine")),
            endpoint(served(1, engine.port, "other"), name="other", access=access("others")),
        )
        await front.set_keys("mine", a="key-a", b="key-b", c="key-c")
        await front.set_keys("others", d="key-d")
        engine.behaviours["team-a.headline-v1"] = wait

        async def ask(key: str, model: str = "headline") -> int:
            async with front.ask("x" * size, key=key, model=model) as answer:
                await answer.read()
                return answer.status

        tasks = [asyncio.create_task(ask(key)) for key in ("key-a", "key-b")]
        await eventually_async(lambda: engine.counts.total() == 2)
        assert [await ask("key-c"), await ask("key-d", "other")] == [503, 200]
        engine.may_answer.set()
        assert await asyncio.gather(*tasks) == [200, 200]
        assert await ask("key-c") == 200


async def test_a_secret_of_one_endpoint_stands_for_it_and_a_shared_one_for_itself(
    tmp_path: Path,
) -> None:
    capture = {"capture": {"editorsFrom": {"secretRef": {"name": "editors"}}}}
    mine = endpoint(None, name="mine", access=access("keys"), **capture)
    async with running_front(tmp_path, mine, endpoint(None, name="open")) as front:
        found = map(front.process.state.endpoint_of, ("keys/a", "editors/a", "", "strange/a"))
        assert list(found) == ["mine", "mine", "open", "strange/"]
        front.follow(
            mine,
            *(endpoint(None, name=each) for each in ("open", "also-open")),
            endpoint(None, name="other", access=access("keys")),
        )
        found = map(front.process.state.endpoint_of, ("keys/a", "editors/a", ""))
        assert list(found) == ["keys/", "mine", "/"]


@pytest.mark.parametrize("is_captured", [False, True])
async def test_bodies_that_are_being_read_count_for_the_endpoint_of_their_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_captured: bool
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_BYTES", 100_000)
    path = b"/v1/feedback" if is_captured else CHAT.encode()
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        captured = {"capture": {}} if is_captured else {}
        mine = endpoint(served(1, engine.port), access=access("mine"), **captured)
        other = endpoint(served(1, engine.port, "other"), name="other", access=access("others"))
        front.follow(mine, other)
        await front.set_keys("mine", a="key-a", b="key-b", c="key-c")
        await front.set_keys("others", d="key-d")
        writers = []
        for key in (b"key-a", b"key-b"):
            _, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
            head = b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n" % (path, key)
            writer.write(head + b"Content-Length: 1000000\r\n\r\n" + b" " * 20_000)
            writers.append(writer)

        async def ask(key: str, model: str = "headline") -> int:
            async with front.ask("x" * 20_000, key=key, model=model) as answer:
                await answer.read()
                return int(answer.status)

        async def is_full() -> bool:
            return await ask("key-c") == 503

        await eventually_async(is_full)
        assert await ask("key-d", "other") == 200
        front.follow(mine)
        assert await ask("key-c") == 200
        front.follow(mine, other)
        for writer in writers:
            writer.close()

        async def is_free() -> bool:
            return await ask("key-c") == 200

        await eventually_async(is_free)


async def test_the_bytes_of_waiting_requests_are_bounded_and_one_sender_takes_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_BYTES", 100_000)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(*one_with_keys_and_one_without(engine))
        await front.set_keys("mine", a="key-a", b="key-b")
        engine.behaviours["team-a.open-v1"] = wait
        text = "x" * 20_000

        async def ask() -> int:
            async with front.ask(text, model="open") as answer:
                await answer.read()
                return answer.status

        tasks = [asyncio.create_task(ask()) for _ in range(2)]
        await eventually_async(lambda: engine.counts.total() == 2)
        async with front.ask(text, model="open") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["code"] == "overloaded"
        assert await status_of(front, "key-b") == 200
        engine.may_answer.set()
        assert await asyncio.gather(*tasks) == [200, 200]
        assert await ask() == 200


async def test_bytes_count_as_they_come_and_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_BYTES", 100_000)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        # What clients only announce takes no room of others.
        writers = []
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
            writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n{")
            writers.append(writer)
        assert await status_of(front, None) == 200
        # 20 kB that are 76 kB once they are written again.
        body = b'{"model": "headline", "prompt": [%b]}' % b",".join([b"1e15"] * 4000)
        async with front.session.post(front.url + "/v1/completions", data=body) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        for writer in writers:
            writer.close()


async def test_a_head_request_lists_models_without_a_body(tmp_path: Path) -> None:
    async with running_front(tmp_path, endpoint(None)) as front:
        async with front.session.head(front.url + "/v1/models") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        async with front.session.head(front.url + CHAT) as answer:
            assert answer.status == 405


async def test_a_field_that_is_not_supported_waits_for_no_server(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        front.follow(endpoint(served(1, 1)))  # nothing listens there
        async with front.ask(x=[[]] * 1000) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == "x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 9),
        ("n", 0),
        ("n", -1),
        ("n", True),
        ("stop", ["a"] * 5),
        ("stop", "a" * 257),
        ("tools", [{"type": "function", "function": {"name": "f", "description": "x" * 65536}}]),
        ("response_format", {"type": "json_schema", "json_schema": {"pattern": "x" * 65536}}),
    ],
)
async def test_what_an_engine_would_work_on_for_long_waits_for_no_server(
    tmp_path: Path, name: str, value: object
) -> None:
    async with running_front(tmp_path) as front:
        front.follow(endpoint(served(1, 1)))  # nothing listens there
        async with front.ask(**{name: value}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == name


async def test_no_parsed_body_is_kept_while_its_answer_is_awaited(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        engine.behaviours["team-a.headline-v1"] = wait
        mark = "a-name-that-occurs-nowhere-else"
        fields = {"model": "headline", "messages": [], "logit_bias": {mark: [[1]]}}
        raw = json.dumps(fields)
        del fields
        asked = asyncio.create_task(front.session.post(front.url + CHAT, data=raw))
        await eventually_async(lambda: engine.counts.total() == 1)
        gc.collect()
        parsed = [each for each in gc.get_objects() if type(each) is dict and mark in each]
        assert [each for each in parsed if each is not engine.asked[-1].body["logit_bias"]] == []
        engine.may_answer.set()
        (await asked).close()


async def test_bodies_that_do_not_come_hold_no_slot_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_OPEN_WITHOUT_KEY", 1)
    monkeypatch.setattr("finetune_trainer.serve.front.answering.MAX_OPEN_PER_KEY", 1)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(*one_with_keys_and_one_without(engine))
        await front.set_keys("mine", a="key-a")
        writers = []
        for head in (HEAD, HEAD + b"Authorization: Bearer key-a\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
            writer.write(head + b"Content-Length: 36\r\n\r\n" + BODY[:10])
            writers.append(writer)

        async def is_full() -> bool:
            return await status_of(front, None, "open") == 503

        await eventually_async(is_full)
        assert await status_of(front, "key-a") == 200
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("line", [b"POST /v1/embeddings", b"PUT /v1/completions"])
async def test_a_wrong_path_or_method_ends_the_connection(tmp_path: Path, line: bytes) -> None:
    async with running_front(tmp_path, endpoint(None)) as front:
        said = await exchange(front, line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"Connection: close" in said


@pytest.mark.parametrize("declares_length", [True, False])
async def test_a_body_beyond_a_mebibyte_is_refused(tmp_path: Path, declares_length: bool) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        body = json.dumps({"model": "headline", "messages": "x" * 1024 * 1024}).encode()

        async def pieces():
            yield body[: 512 * 1024]
            yield body[512 * 1024 :]

        url = front.url + "/v1/chat/completions"
        data = io.BytesIO(body) if declares_length else pieces()
        async with front.session.post(url, data=data) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "body_too_large"
        assert engine.counts.total() == 0


async def test_a_packed_body_is_refused_and_not_unpacked(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        bomb = gzip.compress(b" " * 50_000_000)
        headers = {"Content-Encoding": "gzip"}
        url = front.url + "/v1/chat/completions"
        async with front.session.post(url, data=bomb, headers=headers) as answer:
            assert answer.status == 415


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'{"model": "headline"', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"model": "headline", "a": ' + b"[" * 500 + b"]" * 500 + b"}", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b"{}", "missing_model"),
        (b'{"model": ["headline"]}', "missing_model"),
        (b'{"model": "team-a.headline-v1"}', "model_not_found"),
    ],
)
async def test_a_body_that_names_no_endpoint_reaches_no_engine(
    tmp_path: Path, body: bytes, code: str
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        async with front.session.post(front.url + "/v1/completions", data=body) as answer:
            assert answer.status in (400, 404)
            assert (await answer.json())["error"]["code"] == code
        assert engine.asked == []


async def test_a_model_that_is_named_twice_is_sent_once(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        body = b'{"model": "team-b.secret-v1", "prompt": "x", "model": "headline"}'
        async with front.session.post(front.url + "/v1/completions", data=body) as answer:
            assert answer.status == 200
        assert engine.asked[0].body == {"model": "team-a.headline-v1", "prompt": "x"}


async def exchange(front: RunningFront, sent: bytes) -> bytes:
    """Send bytes as they are; return all that comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
BODY = b'{"model": "headline", "prompt": "x"}'


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 36\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 36\r\nContent-Length: 37\r\n\r\n" + BODY,
        HEAD + b"Content-Length: +36\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Host: b\r\nContent-Length: 36\r\n\r\n" + BODY,
        HEAD + b"X: a\r\n b: c\r\nContent-Length: 36\r\n\r\n" + BODY,
        HEAD + b"Content-Length : 36\r\n\r\n" + BODY,
        HEAD.replace(b"Host: a\r\n", b"") + b"Content-Length: 36\r\n\r\n" + BODY,
        HEAD.replace(b"HTTP/1.1", b"HTTP/9.9") + b"Content-Length: 36\r\n\r\n" + BODY,
        HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"".join([HEAD, *(b"X-%d: x\r\n" % number for number in range(1000)), b"\r\n"]),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 50,
    ],
)
async def test_a_request_that_two_servers_could_read_differently_is_refused(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        said = await exchange(front, sent)
        assert said.startswith(b"HTTP/1.0 400 ")
        assert b"xxx" not in said
        assert said.count(b"HTTP/1.") == 1
        assert engine.asked == []
        assert caplog.text == ""


async def test_slow_headers_and_slow_bodies_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.listening.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("finetune_trainer.serve.proxy.BODY_SECONDS", 0.2)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port)))
        assert await exchange(front, b"") == b""
        assert await exchange(front, HEAD) == b""
        said = await exchange(front, HEAD + b"Content-Length: 36\r\n\r\n" + BODY[:10])
        assert said.startswith(b"HTTP/1.1 408 ")
        # A connection that is used again has the same time for its next headers.
        reader, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
        writer.write(HEAD + b"Content-Length: 36\r\n\r\n" + BODY)
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"POST /v1/comp")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        assert engine.counts.total() == 1


async def test_headers_that_trickle_in_gain_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.serve.listening.HEAD_SECONDS", 0.3)
    async with running_front(tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.process.port)
        begin = asyncio.get_running_loop().time()
        reading = asyncio.create_task(reader.read())
        for byte in HEAD * 100:
            writer.write(bytes([byte]))
            if (await asyncio.wait([reading], timeout=0.05))[0]:
                break
        assert reading.done()
        assert asyncio.get_running_loop().time() - begin < 10
        writer.close()


async def test_no_text_of_a_user_or_an_answer_reaches_a_log_or_a_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), served(2, engine.port), weight=50))
        engine.may_cut.set()
        adapters = ("team-a.headline-v1", "team-a.headline-v2")
        for behaviour in (None, hang_up, cut, _talk_nonsense):
            engine.behaviours = {} if behaviour is None else dict.fromkeys(adapters, behaviour)
            engine.texts = {adapter: [SECRET] for adapter in adapters}
            for number in range(3):
                await _ask_whatever_comes(front, f"{SECRET}-{number}")
        await exchange(front, HEAD + b"Content-Length: 1\r\n\r\n{" + SECRET.encode() + b"\r\n\r\n")
        await exchange(front, f"{SECRET}\r\n\r\n".encode())
        front.process.state.healths.clear()  # a defect: no health of this endpoint
        async with front.ask(SECRET, user=SECRET) as answer:
            assert answer.status == 500
            assert SECRET not in await answer.text()
        assert "unexpected KeyError" in caplog.text
        said = caplog.text + "".join(capfd.readouterr()) + await front.metrics()
    assert SECRET not in said
    assert "cut" in said


async def _ask_whatever_comes(front: RunningFront, text: str) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        async with front.ask(text, user=text, stream=True, key=text) as answer:
            await answer.read()


async def _talk_nonsense(
    engine: StreamingEngine, asked: object, writer: asyncio.StreamWriter
) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {SECRET}\r\n\r\n{SECRET}".encode())


async def test_a_name_of_a_secret_leads_out_of_no_folder(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        await front.set_keys("mine", a="key-a")
        for name in ("../keys/mine", "mine/../mine", "/", "..", ""):
            front.follow(endpoint(served(1, engine.port), access=access(name)))
            await front.process.look()
            assert await status_of(front, "key-a") == 401, name


async def test_curl_gets_answer_stream_and_refusal(tmp_path: Path) -> None:
    async with streaming_engine() as engine, running_front(tmp_path) as front:
        front.follow(endpoint(served(1, engine.port), access=access("mine")))
        await front.set_keys("mine", a="key-a")
        prompt = "x" * 20_000  # so long that curl asks first whether to send it

        async def curl(**body: object) -> tuple[int, str]:
            (tmp_path / "body").write_text(json.dumps({"model": "headline", **body}))
            command = ["curl", "-sS", "-N", "--fail-with-body", "-H", "Authorization: Bearer key-a"]
            command += ["-H", "Expect: 100-continue", "--data", f"@{tmp_path / 'body'}"]
            command.append(front.url + "/v1/completions")
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=60
            )
            return done.returncode, done.stdout

        code, said = await curl(prompt=prompt)
        assert (code, json.loads(said)["usage"]["completion_tokens"]) == (0, 3)
        code, said = await curl(prompt=prompt, stream=True)
        assert (code, said.splitlines()[-2]) == (0, "data: [DONE]")
        engine.behaviours["team-a.headline-v1"] = cut
        engine.may_cut.set()
        code, said = await curl(prompt=prompt, stream=True)
        assert code == 18  # the transfer ended before its end
        code, said = await curl(prompt=prompt, model="other")
        assert (code, json.loads(said)["error"]["code"]) == (22, "model_not_found")

"""Clients of an endpoint that ask at a steady rate, plain and streamed, and note every answer.

A client does what those of OpenAI do: it sends a request again whose connection was refused or
broke. It does not send one again that was answered with an error: that is a failure here.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp

PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Between the tries of a request."""
TIMEOUT_SECONDS = 180.0
BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)


class _Cut(aiohttp.ClientPayloadError):
    """A stream ended before its end."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a request ended.

    Attributes:
        begin: When it was sent for the last time (Unix time).
        end: When its answer had come.
        version: The version that answered, as the front says.
        problem: Why it failed; empty if it did not.
        broken: When its connection was refused or broke, before it was sent again.
    """

    begin: float
    end: float
    prompt: str
    is_stream: bool
    version: int = 0
    text: str = ""
    problem: str = ""
    broken: tuple[float, ...] = ()


@dataclass(kw_only=True)
class Clients:
    """Many users with keys of their own.

    Attributes:
        url: Where the endpoint is, up to ``/v1``.
        rate: Requests a second.
        seed: Chooses keys, users, prompts and who streams.
    """

    url: str
    model: str
    keys: Sequence[str]
    prompts: Sequence[str]
    max_tokens: int
    rate: float
    seed: int
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> Clients:
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> list[Answer]:
        """Send no more, wait for the answers that are due, and return all."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self.answers

    def _run(self) -> None:
        try:
            asyncio.run(self._ask_steadily())
        except BaseException as error:
            self._error = error

    async def _ask_steadily(self) -> None:
        chance, loop = random.Random(self.seed), asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        due = loop.time()
        async with (
            aiohttp.ClientSession(timeout=timeout) as keeping,
            aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)
            ) as closing,
            asyncio.TaskGroup() as asked,
        ):
            while not self._stop.is_set():
                session = chance.choice((keeping, closing))
                asked.create_task(self._ask(session, random.Random(chance.random())))
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def _ask(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        prompt, is_stream = chance.choice(self.prompts), chance.random() < 0.5
        key, user = chance.choice(self.keys), f"user-{chance.randrange(10_000)}"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "user": user,
            "stream": is_stream,
        }
        broken: list[float] = []
        while True:
            begin = time.time()
            try:
                version, text, problem = await _send(session, self.url, key, body)
            except BROKEN as error:
                broken.append(time.time())
                version, text, problem = 0, "", f"{type(error).__name__}: {error}"
                if len(broken) <= len(PAUSES_SECONDS):
                    await asyncio.sleep(PAUSES_SECONDS[len(broken) - 1])
                    continue
            except TimeoutError:
                version, text, problem = 0, "", f"no answer within {TIMEOUT_SECONDS} s"
            break
        self.answers.append(
            Answer(
                begin=begin,
                end=time.time(),
                prompt=prompt,
                is_stream=is_stream,
                version=version,
                text=text.strip(),
                problem=problem,
                broken=tuple(broken),
            )
        )


async def _send(
    session: aiohttp.ClientSession, url: str, key: str, body: dict[str, object]
) -> tuple[int, str, str]:
    """Return the version that answered, its text, and what is wrong; raises if it broke off."""
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
        content = await answer.read()
        version = int(answer.headers.get("x-finetune-version", "0"))
        if answer.status != 200:
            return version, "", f"{answer.status}: {content[:500]!r}"
        if not body["stream"]:
            return version, json.loads(content)["choices"][0]["message"]["content"] or "", ""
    events = [each.removeprefix(b"data: ") for each in content.split(b"\n\n") if each.strip()]
    if events[-1:] != [b"[DONE]"]:
        raise _Cut("the stream has no end")
    deltas = [json.loads(each)["choices"][0]["delta"] for each in events[:-1]]
    return version, "".join(delta.get("content") or "" for delta in deltas), ""

"""The engine on the loopback interface: vLLM's routes, or those of our own engine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from finetune_trainer.serve.verification import Stored, Token

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
LOAD_SECONDS = 600.0
ANSWER_SECONDS = 600.0
LOOK_SECONDS = 5.0
TOKEN_SECONDS = 90.0
"""An engine that gives no token in this time hangs. On a busy CPU a long prompt takes a minute."""
NUM_TRIES = 3
TRY_PAUSE_SECONDS = 1.0
FALLBACK_TOKENS = 1024
"""Longest answer if nobody recorded the evaluation's limit."""


MAX_WORDS = 300
_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
NUM_LOGPROBS = 5
"""Likeliest tokens that are asked for at each place of an answer."""
NO_SLOT = "no_free_slot"
"""Code of an engine that has no room for another adapter now."""


class EngineAway(Exception):  # noqa: N818 - a state, not a fault of a version
    """The engine does not answer, or not now; it may be starting again."""

    def __init__(self, message: str, reason: str = "EngineAway") -> None:
        super().__init__(message)
        self.reason = reason


class EngineSlow(EngineAway):
    """The engine runs, and has not answered in time."""


class EngineRefused(Exception):  # noqa: N818 - its answer
    """The engine refuses a call that would fail again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer of the engine.

    Attributes:
        text: Its text.
        tokens: Its tokens; empty if the engine does not tell log-probabilities.
        has_ended: The model ended it, no limit.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    has_ended: bool = False


class Engine:
    """Calls to the engine.

    Args:
        session: Follows no redirects and uses no proxy.
        url: Base URL of the engine.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")

    async def list_models(self) -> frozenset[str]:
        """Return the names that the engine answers to.

        Raises:
            EngineSlow: It did not answer in time.
            EngineAway: It cannot be reached.
        """
        body = await self._get("/v1/models")
        return frozenset(str(model["id"]) for model in body.get("data", ()))

    async def describe(self) -> Mapping[str, Any]:
        """Return the engine's answer to ``GET /version``.

        Every engine tells its ``version``. Ours also tells ``engine``, ``dtype`` and ``device``.
        """
        return await self._get("/version")

    async def read_metrics(self) -> str:
        """Return the engine's metrics in Prometheus' text format; empty if it has none."""
        try:
            async with self._session.get(
                f"{self.url}/metrics", timeout=aiohttp.ClientTimeout(total=LOOK_SECONDS)
            ) as response:
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""

    async def load(self, name: str, folder: Path) -> None:
        """Load an adapter.

        Raises:
            EngineAway: The engine does not answer, or has no room now.
            EngineRefused: It does not take this adapter; has the engine's words.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            # The call has no text of users, so the engine's words have none.
            await self._post("/v1/load_lora_adapter", body, seconds=LOAD_SECONDS, quotes=True)
        except EngineRefused as error:
            if NO_SLOT in str(error):
                raise EngineAway(str(error), "NoFreeSlot") from error
            raise

    async def unload(self, name: str) -> None:
        """Unload an adapter. One that is not loaded is no error.

        Raises:
            EngineAway: The engine does not answer.
        """
        try:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name}, seconds=LOAD_SECONDS)
        except EngineRefused:
            if name in await self.list_models():
                raise EngineAway(f"{name} cannot be unloaded") from None

    async def ask(self, name: str, question: Stored, *, answer_tokens: int | None) -> Reply:
        """Return the greedy answer to a held-out question, asked as users ask.

        Raises:
            EngineAway: The engine does not answer.
            EngineRefused: It does not take the question.
        """
        body: dict[str, Any] = {
            "model": name,
            "temperature": 0.0,
            "max_tokens": answer_tokens or FALLBACK_TOKENS,
        }
        if isinstance(question.prompt, str):
            body |= {"prompt": question.prompt, "logprobs": NUM_LOGPROBS}
            reply = await self._post(COMPLETIONS, body)
        else:
            body |= {"messages": question.prompt, "logprobs": True, "top_logprobs": NUM_LOGPROBS}
            tools = {"tools": question.tools} if question.tools else {}
            reply = await self._post(CHAT, {**body, **tools})
        try:
            choice = reply["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            tokens = _read_tokens(choice.get("logprobs") or {})
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise EngineRefused(f"the answer has no text: {error!r}") from error
        has_ended = choice.get("finish_reason") == "stop"
        return Reply(text=str(text or ""), tokens=tokens, has_ended=has_ended)

    async def ask_one_token(self, name: str) -> None:
        """Have a model compute one token. Whatever the engine answers, it does not hang.

        A server lists its models while the process that computes hangs.

        Raises:
            EngineSlow: It did not answer in time.
            EngineAway: It cannot be reached.
        """
        body = {"model": name, "prompt": "1", "max_tokens": 1, "temperature": 0.0}
        timeout = aiohttp.ClientTimeout(total=TOKEN_SECONDS)
        with _named_failures(TOKEN_SECONDS):
            async with self._session.post(
                self.url + COMPLETIONS, json=body, timeout=timeout
            ) as response:
                await response.read()

    async def _get(self, path: str) -> Mapping[str, Any]:
        with _named_failures(LOOK_SECONDS):
            async with self._session.get(
                self.url + path, timeout=aiohttp.ClientTimeout(total=LOOK_SECONDS)
            ) as response:
                response.raise_for_status()
                body: dict[str, Any] = await response.json(content_type=None)
                return body

    async def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = ANSWER_SECONDS,
        quotes: bool = False,
    ) -> Any:
        """Return the answer to a call; a failure of the engine is tried again.

        ``quotes`` puts the engine's words into the message of a refusal.

        Raises:
            EngineSlow: It did not answer in time.
            EngineAway: The engine does not answer.
            EngineRefused: It refuses the call, or fails at it each time.
        """
        timeout = aiohttp.ClientTimeout(total=seconds)
        for left in reversed(range(NUM_TRIES)):
            with _named_failures(seconds):
                async with self._session.post(
                    self.url + path, json=body, timeout=timeout
                ) as response:
                    text = await response.text()
                    if response.status == 200:
                        is_json = "json" in response.headers.get("Content-Type", "")
                        return await response.json(content_type=None) if is_json else text
                    status = response.status
            if status not in (408, 429) and (status < 500 or not left):
                words = text[:MAX_WORDS] if quotes else _describe(text)
                raise EngineRefused(f"status {status}: {words}" if words else f"status {status}")
            await asyncio.sleep(TRY_PAUSE_SECONDS)
        raise EngineAway(f"it is busy: status {status}")


@contextmanager
def _named_failures(seconds: float) -> Iterator[None]:
    """Translate failures of a call that may take so long: ``EngineSlow``, or ``EngineAway``."""
    try:
        yield
    except TimeoutError as error:
        raise EngineSlow(f"no answer in {seconds:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise EngineAway(type(error).__name__) from error


def _read_tokens(wire: Mapping[str, Any]) -> tuple[Token, ...]:
    """Read the tokens of an answer in OpenAI's shape for chats, or in that for texts."""
    if (content := wire.get("content")) is not None:
        rows = [
            (each, [(other["token"], other["logprob"]) for other in each["top_logprobs"]])
            for each in content
        ]
        return tuple(
            Token(text=each["token"], logprob=each["logprob"], likeliest=likeliest)
            for each, likeliest in rows
        )
    columns = [wire.get(name) or () for name in ("tokens", "token_logprobs", "top_logprobs")]
    return tuple(
        Token(text=text, logprob=logprob, likeliest=list((likeliest or {}).items()))
        for text, logprob, likeliest in zip(*columns, strict=True)
    )


def _describe(text: str) -> str:
    """Return code and parameter of an error in OpenAI's shape: its message may quote a question."""
    try:
        body = json.loads(text)
        error = body.get("error", body)
        told = {name: error.get(name) for name in ("code", "param")}
    except (ValueError, AttributeError):
        return ""
    return ", ".join(
        f"{name} {value}"
        for name, value in told.items()
        if _WORD.fullmatch(str(value)) and value is not None
    )

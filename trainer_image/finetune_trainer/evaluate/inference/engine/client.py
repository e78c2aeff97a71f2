"""Asks a vLLM server in tokens, by OpenAI's completions: answers, likelihoods, next tokens."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from finetune_trainer.errors import RetryableError, TrainerError, UserError
from finetune_trainer.evaluate.inference.engine.server import EngineServer, direct

ANSWER_SECONDS = 1800.0
"""How long one call may take: thousands of tokens, among others."""
NUM_TRIES = 6
"""Tries of one call while the server stands: its connections may break, it may be busy."""
MAX_WAIT_SECONDS = 10.0
"""Between two of them."""
NUM_NEXT = 20
"""Next tokens that a server tells by default."""
_REMEDY = (
    "is it 0.32 or newer? Have the operator's vllmImage changed, or set evaluation.engine: "
    "Transformers"
)


class EngineClient:
    """Puts calls to a server; safe to use from several threads.

    Args:
        server: The server, which is ready.
        max_tokens: What it was begun with: the most tokens of a prompt and what follows it.
        wait: Waits for some seconds.
    """

    def __init__(
        self,
        server: EngineServer,
        *,
        max_tokens: int,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._server = server
        self._max_tokens = max_tokens
        self._wait = wait
        self._lock = threading.Lock()
        self._failure: TrainerError | None = None

    def answer(
        self, model: str, prompt: Sequence[int], *, max_tokens: int, stop_ids: Sequence[int]
    ) -> list[int]:
        """Return the tokens of a greedy answer.

        Args:
            model: Name of the model.
            prompt: Token ids.
            max_tokens: Longest answer.
            stop_ids: What an answer ends with; nothing else ends it.
        """
        told = self._ask(
            model,
            prompt,
            {"max_tokens": max_tokens, "stop_token_ids": list(stop_ids), "return_token_ids": True},
            wanted=["token_ids"],
        )["token_ids"]
        return [int(token) for token in told]

    def score(self, model: str, tokens: Sequence[int]) -> list[float]:
        """Return the log-likelihood (nats) of each token after those before it; 0 of the first.

        A server insists on one more token, for which as many as it may have leave no room: of
        those the last is all that it may say, whose likelihood is told as if it had the choice.
        """
        read, last = (tokens, None) if len(tokens) < self._max_tokens else (tokens[:-1], tokens[-1])
        body: dict[str, Any] = {"max_tokens": 1, "prompt_logprobs": 0}
        wanted = ["prompt_logprobs"]
        if last is not None:
            # Not logprob_token_ids, which spoils what calls of the same step are told (0.32).
            body |= {"logprobs": 1, "allowed_token_ids": [last]}
            body["return_tokens_as_token_ids"] = True
            wanted.append("logprobs")
        told = self._ask(model, read, body, wanted=wanted)
        pairs = zip(read[1:], told["prompt_logprobs"][1:], strict=True)
        known = [0.0, *(float(known[str(token)]["logprob"]) for token, known in pairs)]
        if last is None:
            return known
        following = _by_token(told["logprobs"])
        if last not in following:
            raise self._fail(_refuses("tells no likelihood of a token that it is asked for"))
        return [*known, following[last]]

    def next_tokens(self, model: str, tokens: Sequence[int]) -> dict[int, float]:
        """Return the log-likelihoods (nats) of the likeliest next tokens."""
        body = {"max_tokens": 1, "logprobs": NUM_NEXT, "return_tokens_as_token_ids": True}
        return _by_token(self._ask(model, tokens, body, wanted=["logprobs"])["logprobs"])

    def _ask(
        self, model: str, prompt: Sequence[int], body: dict[str, Any], *, wanted: Sequence[str]
    ) -> dict[str, Any]:
        """Return what a call gives; the call is put again where a connection breaks.

        Raises:
            RetryableError: The server ended, or does not answer.
            UserError: It refuses the call, or does not tell a part that is wanted.
        """
        wire = {"model": model, "prompt": list(prompt), "temperature": 0.0, "ignore_eos": True}
        data = json.dumps({**wire, **body}).encode()
        problem = ""
        for number in range(NUM_TRIES):
            if self._server.has_ended:
                break
            if number:
                self._wait(min(MAX_WAIT_SECONDS, 0.5 * 2.0**number))
            if self._failure is not None:
                raise self._failure
            try:
                choice = self._post(data)
            except urllib.error.HTTPError as error:
                with error:
                    problem = f"status {error.code}"
                if error.code < 500 and error.code != 429:
                    raise self._fail(_refuses(f"refuses a question ({problem})")) from None
            except (OSError, HTTPException) as error:
                problem = type(getattr(error, "reason", error)).__name__
            else:
                for part in wanted:
                    if choice.get(part) is None:
                        raise self._fail(_refuses(f"tells no {part}"))
                return choice
        words = "ended while it was asked"
        if not self._server.has_ended:
            words = f"does not answer ({problem}, {NUM_TRIES} times)"
        raise self._fail(RetryableError("EngineFailed", f"the vLLM server {words}"))

    def _fail(self, error: TrainerError) -> TrainerError:
        """Return the failure of all calls, which is that of the first."""
        with self._lock:
            self._failure = self._failure or error
            return self._failure

    def _post(self, data: bytes) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - http on the loopback interface
            self._server.url("/v1/completions"),
            data=data,
            headers={"Content-Type": "application/json"},
        )
        with direct.open(request, timeout=ANSWER_SECONDS) as reply:
            wire = json.load(reply)
        choice: dict[str, Any] = wire["choices"][0]
        return choice


def _by_token(told: dict[str, Any]) -> dict[int, float]:
    """Return the log-likelihoods of what could come first, by token."""
    first = told["top_logprobs"][0].items()
    return {int(name.removeprefix("token_id:")): float(value) for name, value in first}


def _refuses(what: str) -> UserError:
    return UserError("EngineRefuses", f"the vLLM server {what}: {_REMEDY}")

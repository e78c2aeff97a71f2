"""Asks a vLLM server by its URL, in tokens, by OpenAI's completions.

Each prompt and each example is a call of its own; many calls are open at a time, and the server
makes the batches. The tokens, stop tokens and choices are those of the transformers engine.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar

from finetune_trainer.errors import RetryableError, TrainerError, UserError
from finetune_trainer.evaluate.inference.engine import Generation, Likelihood, Prompt
from finetune_trainer.evaluate.inference.vllm_server import direct
from finetune_trainer.evaluate.tokenized import count_common
from finetune_trainer.model.encoding import IGNORED, TokenizedExample

ANSWER_SECONDS = 1800.0
"""Longest time of one call, with thousands of tokens and other calls beside it."""
NUM_TRIES = 6
"""Tries of one call while the server runs: connections may break, and it may be busy."""
MAX_WAIT_SECONDS = 10.0
"""Longest wait between two tries."""
NUM_NEXT = 20
"""Next tokens whose likelihoods a server returns by default."""
NUM_AT_ONCE = 64
"""Open calls, unless the job sets a batch size."""
_REMEDY = (
    "is it 0.32 or newer? Have the operator's vllmImage changed, or set evaluation.engine: "
    "Transformers"
)


T = TypeVar("T")
A = TypeVar("A")


class VllmEngine:
    """One model of a vLLM server, as an :class:`engine.Engine`.

    A server caches prefixes itself, so ``num_shared`` has no effect.

    Args:
        client: Client of the server, which is ready.
        model: Name of the model on the server.
        num_at_once: Open calls.
    """

    def __init__(self, client: EngineClient, model: str, *, num_at_once: int = NUM_AT_ONCE) -> None:
        self._client = client
        self._model = model
        self._num_at_once = num_at_once

    def generate(
        self, prompts: Sequence[Prompt], *, stop_ids: Sequence[int], num_shared: int = 0
    ) -> Iterator[dict[int, Generation]]:
        """Answer prompts, as :meth:`engine.Engine.generate` says."""
        share = 1 / min(self._num_at_once, max(1, len(prompts)))
        return self._map(partial(self._answer, stop_ids, share), prompts)

    def score(
        self, examples: Sequence[TokenizedExample], *, num_shared: int = 0
    ) -> Iterator[dict[int, Likelihood]]:
        """Score examples, as :meth:`engine.Engine.score` says."""
        return self._map(partial(score_example, self._client, self._model), examples)

    def _map(self, ask: Callable[[A], T], asked: Sequence[A]) -> Iterator[dict[int, T]]:
        with ThreadPoolExecutor(min(self._num_at_once, max(1, len(asked)))) as pool:
            futures: dict[Future[T], int] = {
                pool.submit(ask, each): index for index, each in enumerate(asked)
            }
            try:
                for future in as_completed(futures):
                    yield {futures[future]: future.result()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _answer(self, stop_ids: Sequence[int], share: float, prompt: Prompt) -> Generation:
        client, model, ids = self._client, self._model, prompt.token_ids
        started = time.monotonic()
        answer: list[int] = []
        if limit := prompt.max_new_tokens:
            answer = client.answer(model, ids, max_tokens=limit, stop_ids=stop_ids)
        seconds = (time.monotonic() - started) * share
        reference = prompt.reference
        return Generation(
            token_ids=answer,
            choice=choose(client, model, ids, prompt.choices) if prompt.choices else None,
            reference=score_example(client, model, reference) if reference else None,
            seconds=seconds,
        )


class EngineClient:
    """Calls a server; safe to use from several threads.

    Args:
        url: The server's URL, without a path; it is ready.
        max_tokens: Most tokens of a prompt and what follows it (``--max-model-len``).
        has_ended: Whether the server has ended for good, so that no call is repeated.
        wait: Waits for some seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        max_tokens: int,
        has_ended: Callable[[], bool] = lambda: False,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = url
        self._has_ended = has_ended
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
            stop_ids: Tokens that end an answer; nothing else does.
        """
        reply = self._ask(
            model,
            prompt,
            {"max_tokens": max_tokens, "stop_token_ids": list(stop_ids), "return_token_ids": True},
            wanted=["token_ids"],
        )["token_ids"]
        return [int(token) for token in reply]

    def score(self, model: str, tokens: Sequence[int]) -> list[float]:
        """Return the log-likelihood (nats) of each token after those before it; 0 for the first.

        A server must generate at least one token. Where the tokens fill its context, it is given
        all but the last, and the last is the only token that it may generate. The likelihood that
        it returns for this token is that of the free choice.
        """
        read, last = (tokens, None) if len(tokens) < self._max_tokens else (tokens[:-1], tokens[-1])
        body: dict[str, Any] = {"max_tokens": 1, "prompt_logprobs": 0}
        wanted = ["prompt_logprobs"]
        if last is not None:
            # Not logprob_token_ids: in 0.32 it corrupts the results of other calls in the step.
            body |= {"logprobs": 1, "allowed_token_ids": [last]}
            body["return_tokens_as_token_ids"] = True
            wanted.append("logprobs")
        reply = self._ask(model, read, body, wanted=wanted)
        pairs = zip(read[1:], reply["prompt_logprobs"][1:], strict=True)
        known = [0.0, *(float(known[str(token)]["logprob"]) for token, known in pairs)]
        if last is None:
            return known
        following = _by_token(reply["logprobs"])
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
        """Return the result of a call; it is repeated where a connection breaks.

        Raises:
            RetryableError: The server ended, or does not answer.
            UserError: It refuses the call, or its reply lacks a part of ``wanted``.
        """
        wire = {"model": model, "prompt": list(prompt), "temperature": 0.0, "ignore_eos": True}
        data = json.dumps({**wire, **body}).encode()
        problem = ""
        for number in range(NUM_TRIES):
            if self._has_ended():
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
        if not self._has_ended():
            words = f"does not answer ({problem}, {NUM_TRIES} times)"
        raise self._fail(RetryableError("EngineFailed", f"the vLLM server {words}"))

    def _fail(self, error: TrainerError) -> TrainerError:
        """Return the failure of the first call that failed; all later calls fail with it."""
        with self._lock:
            self._failure = self._failure or error
            return self._failure

    def _post(self, data: bytes) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - a URL of this program's own
            f"{self._url}/v1/completions", data=data, headers={"Content-Type": "application/json"}
        )
        with direct.open(request, timeout=ANSWER_SECONDS) as reply:
            wire = json.load(reply)
        choice: dict[str, Any] = wire["choices"][0]
        return choice


def _by_token(logprobs: dict[str, Any]) -> dict[int, float]:
    """Return the log-likelihoods of the first new token, by token."""
    first = logprobs["top_logprobs"][0].items()
    return {int(name.removeprefix("token_id:")): float(value) for name, value in first}


def _refuses(what: str) -> UserError:
    return UserError("EngineRefuses", f"the vLLM server {what}: {_REMEDY}")


def score_example(client: EngineClient, model: str, example: TokenizedExample) -> Likelihood:
    """Return the likelihood of an example."""
    counted = [place for place, label in enumerate(example.labels) if place and label != IGNORED]
    if not counted:
        return Likelihood(0.0, 0)
    # Tokens after the last one that counts need not be read.
    known = client.score(model, example.input_ids[: counted[-1] + 1])
    return Likelihood(-sum(known[place] for place in counted), len(counted))


def choose(
    client: EngineClient, model: str, prompt: Sequence[int], choices: Sequence[list[int]]
) -> int:
    """Return the index of the likeliest choice behind a prompt, the first of equal ones.

    A choice is not read whole where its first own token is already less likely than all of another
    choice (see ``reading``). A token for which the server returns no likelihood is at most as
    likely as the least likely one that it returns.
    """
    if len(choices) < 2:
        return 0
    size = count_common(choices)
    start = [*prompt, *choices[0][:size]]
    reply = client.next_tokens(model, start)
    bounds = [reply.get(choice[size], min(reply.values())) for choice in choices]
    best, chosen = -float("inf"), 0
    for number in sorted(range(len(choices)), key=lambda number: (-bounds[number], number)):
        if bounds[number] < best:
            break
        total = sum(client.score(model, [*prompt, *choices[number]])[len(start) :])
        if (total, -number) > (best, -chosen):
            best, chosen = total, number
    return chosen

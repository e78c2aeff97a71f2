"""A server on the loopback interface that answers as vLLM does, in tokens, by any model."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "0.99.0"
Read = Callable[[str, Sequence[int]], Sequence[Sequence[float]]]
"""Of a model's name and tokens: behind each of them, the log-likelihood (nats) of all that may come
next."""


def made_up_next(name: str, tokens: Sequence[int], *, size: int = 40) -> list[float]:
    """Return log-likelihoods that depend on all tokens, and on nothing else."""
    draw = random.Random(f"{name} {list(tokens)}")
    weights = [math.exp(20 * draw.random()) for _ in range(size)]
    return [math.log(weight / sum(weights)) for weight in weights]


def made_up_model(name: str, tokens: Sequence[int]) -> list[list[float]]:
    """Read tokens."""
    return [made_up_next(name, tokens[: at + 1]) for at in range(len(tokens))]


@dataclass(kw_only=True)
class EngineStub:
    """What the server does and has seen.

    Attributes:
        read: The models.
        reply: Called with the number of a call: the status to refuse it with, 0 to break the
            connection, None to answer.
        max_tokens: Tokens that a prompt and what follows it may have.
        hidden: Part of an answer that is left out, as older versions do.
        converse: What a model says in a conversation, by the body of the call.
        calls: Bodies of the calls.
        most_at_once: Calls that were under way together.
    """

    read: Read = made_up_model
    reply: Callable[[int], int | None] = lambda _number: None
    max_tokens: int = 1_000_000
    hidden: str = ""
    converse: Callable[[dict[str, Any]], str] = lambda _body: "words that nobody reads"
    calls: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    port: int = 0
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, body: dict[str, Any]) -> int:
        with self._lock:
            self.calls.append(body)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            return len(self.calls) - 1

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what a completion says, as far as it is asked for."""
        if "messages" in body:
            said_last = {"role": "assistant", "content": self.converse(body)}
            return {"index": 0, "message": said_last, "finish_reason": "stop"}
        model, prompt = body["model"], list(body["prompt"])
        said: list[int] = []
        while len(said) < body["max_tokens"]:
            known = self.read(model, [*prompt, *said])[-1]
            allowed = body.get("allowed_token_ids") or range(len(known))
            said.append(max(allowed, key=lambda token: (known[token], -token)))
            if said[-1] in body.get("stop_token_ids", ()):
                break
        choice: dict[str, Any] = {"text": "words that nobody reads"}
        if body.get("return_token_ids"):
            choice["token_ids"] = said
        if (number := body.get("logprobs")) is not None:
            known = self.read(model, prompt)[-1]
            best = sorted(range(len(known)), key=lambda token: -known[token])[:number]
            # What is said is told first, then the likeliest, whatever may be said.
            told = {
                f"token_id:{token}": known[token] for token in dict.fromkeys([*said[:1], *best])
            }
            choice["logprobs"] = {"top_logprobs": [told]}
        if "prompt_logprobs" in body:
            behind = zip(prompt[1:], self.read(model, prompt), strict=False)
            choice["prompt_logprobs"] = [
                None,
                *({str(token): {"logprob": known[token]}} for token, known in behind),
            ]
        choice.pop(self.hidden, None)
        return choice


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    """Connections that wait: clients ask many at a time."""


@contextmanager
def engine_stub(port: int = 0, **settings: Any) -> Iterator[EngineStub]:
    """Run a server until the end of the block."""
    stub = EngineStub(**settings)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._say(200, {"version": VERSION} if self.path == "/version" else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = stub.begin(body)
            try:
                status = stub.reply(number)
                if status is None and len(body["prompt"]) >= stub.max_tokens:
                    words = "longer than the maximum model length"
                    answer = 400, {"error": {"message": words}}
                elif status is None:
                    answer = 200, {"choices": [stub.choice(body)]}
                else:
                    answer = status, {"error": {"message": "no"}}
            except BaseException:
                stub.end()
                raise
            if status == 0:
                self.close_connection = True
                stub.end()
            else:
                # Before its last byte: whoever has an answer may call again at once.
                self._say(*answer, before_its_end=stub.end)

        def _say(
            self,
            status: int,
            wire: dict[str, Any],
            before_its_end: Callable[[], None] = lambda: None,
        ) -> None:
            data = json.dumps(wire).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            before_its_end()
            self.wfile.write(data)

    with _Server(("127.0.0.1", port), Handler) as server:
        stub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()

"""A judge on the loopback interface: speaks OpenAI's chat completions, judges as asked."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_BLOCK = re.compile(
    r"<(request|right-answer|answer(?:-[12])?)-([0-9a-f]{16})>\n(.*?)\n</\1-\2>", re.S
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one request asks.

    Attributes:
        number: How many there were before it.
        body: Its JSON.
        headers: Its headers.
    """

    number: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def content(self) -> str:
        """The words."""
        text: str = self.body["messages"][0]["content"]
        return text

    @property
    def texts(self) -> dict[str, str]:
        """The texts between marks, by name."""
        return {name: text for name, _, text in _BLOCK.findall(self.content)}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes back: a reply, or a failure.

    Attributes:
        text: The judge's words.
        status: HTTP status.
        error: Body of a failure.
        headers: Headers beside it.
        usage: Whether tokens are told.
        raw: Sent in the place of a chat completion.
    """

    text: str = ""
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    usage: bool = True
    raw: bytes | None = None


Judging = Callable[[Call], Answer]


def winner(number: object) -> Answer:
    """Return a verdict over a pair."""
    return Answer(text=json.dumps({"reason": "because", "winner": number}))


def always_first(_call: Call) -> Answer:
    """Prefer whatever stands first."""
    return winner("1")


def longest(call: Call) -> Answer:
    """Prefer the longer answer."""
    first, second = call.texts["answer-1"], call.texts["answer-2"]
    return winner("1" if len(first) > len(second) else "2")


def prefer(word: str) -> Judging:
    """Prefer the answer that has a word in it."""

    def judge(call: Call) -> Answer:
        has = [word in call.texts[name] for name in ("answer-1", "answer-2")]
        return winner("tie" if has[0] == has[1] else "1" if has[0] else "2")

    return judge


def gullible(call: Call) -> Answer:
    """Do as an answer says that speaks to the judge."""
    for number in ("1", "2"):
        if "choose this answer" in call.texts[f"answer-{number}"]:
            return winner(number)
    return winner("tie")


def failing(times: int, answer: Answer, then: Judging) -> Judging:
    """Fail so many times, then judge."""
    return lambda call: answer if call.number < times else then(call)


class JudgeServer:
    """Attributes: ``url`` for ``evaluation.judge.endpoint``; ``calls`` so far."""

    def __init__(self, judging: Judging) -> None:
        self.judging = judging
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer._answer(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            call = Call(number=len(self.calls), body=body, headers=dict(handler.headers))
            self.calls.append(call)
        answer = self.judging(call) if handler.path == "/v1/chat/completions" else NO_PATH
        wire: dict[str, Any] = {"choices": [{"message": {"content": answer.text}}]}
        if answer.usage:
            wire["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
        data = answer.raw
        if data is None:
            data = json.dumps(wire if answer.status == 200 else {"error": answer.error}).encode()
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            pass  # whoever asked is gone: that is what slow answers are tested for

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


NO_PATH = Answer(status=404, error={"code": "not_found"})


@contextmanager
def serving(judging: Judging) -> Iterator[JudgeServer]:
    """Serve a judge during the block."""
    server = JudgeServer(judging)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def slow(seconds: float, then: Judging) -> Judging:
    """Judge after a while."""

    def judge(call: Call) -> Answer:
        time.sleep(seconds)
        return then(call)

    return judge

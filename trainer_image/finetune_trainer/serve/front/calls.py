"""A request under way, before a version is chosen."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from finetune_trainer.serve.front.answers import wants_json
from finetune_trainer.serve.front.ledger import Visit
from finetune_trainer.serve.front.rotation import number_of, sticky_key
from finetune_trainer.serve.front.routes import Route, Served
from finetune_trainer.serve.response_ids import make_id

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
_NOT_SENT = ("model", "store", "metadata")
"""Fields that the front obeys, or writes anew for each version."""
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(slots=True)
class Call:
    """One request under way.

    Attributes:
        body: Fields for the server as bytes, the model first: parsed, they take many times more
            while the answer is awaited.
        wants_json: Whether the answer has to be JSON.
        number: 64 bits from the sticky key.
        sender: Digest of the API key; the client's address where no key is asked for.
        who: Secret and entry of the key, or the address; empty if ``trustUsers`` is set.
        user: Stands for the user among those of the same ``who``.
        served: The version that was asked last.
        id: Response id.
        time: When it came, in UTC.
        raw: The body as it came; empty where nothing is captured.
        is_captured: Whether its answer goes to the recorder.
        hides_usage: Whether a stream tells the front alone how many tokens there were.
        dropped: Names of the fields that were dropped, as a header has them.
        is_counted: Whether it belongs to one of the parallel streams of a rollout.
    """

    route: Route
    visit: Visit
    path: str
    operation: str
    body: bytes
    wants_json: bool
    number: int
    sender: str
    who: str
    user: int
    begin: float
    trace: str | None
    id: str
    time: datetime
    raw: bytes
    is_captured: bool
    hides_usage: bool = False
    dropped: str = ""
    num_tries: int = 0
    is_counted: bool = False
    served: Served | None = None
    _head: bytes = b'{"model":""'

    def body_for(self, served: Served) -> bytes:
        """Return the body with the version's own name. There is one copy, whoever was asked."""
        head = b'{"model":' + orjson.dumps(served.adapter)
        if head != self._head:
            self.body, self._head = head + self.body[len(self._head) :], head
        return self.body

    def headers(self, token: str) -> dict[str, str]:
        """Return the headers for a server. None of the client's pass, except the trace."""
        self.num_tries += 1
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {token}",
            "X-Request-Id": self.id if self.num_tries == 1 else f"{self.id}-{self.num_tries}",
        }
        if self.trace is not None:
            headers["traceparent"] = self.trace
        return headers


def who_is(route: Route, sender: str) -> str:
    """Return the sender as far as it tells users apart."""
    return "" if route.trusts_users else sender


def user_of(route: Route, number: int) -> int:
    """Return what stands for a user. Without keys an address is one, whatever it says."""
    return number if route.trusts_users or route.secret is not None else 0


def call_of(
    request: web.BaseRequest,
    route: Route,
    visit: Visit,
    path: str,
    fields: dict[str, Any],
    raw: bytes,
    digest: str | None,
    owner: str,
) -> Call:
    """Return a request that was admitted; ``owner`` stands for all keys of an entry."""
    # Where no key is asked for, a client could send another one each time.
    sender = (request.remote if route.secret is None else digest) or ""
    who = who_is(route, owner or sender)
    number = 0
    if route.candidate is not None:
        key = sticky_key(fields)
        number = random.getrandbits(64) if key is None else number_of(route.mixing, who, key)
    trace = request.headers.get("traceparent")
    time = datetime.now(UTC)
    is_captured = route.capture is not None and route.capture.wants(fields)
    includes_usage = (fields.get("stream_options") or {}).get("include_usage") is True
    hides_usage = fields.get("stream") is True and not includes_usage
    if hides_usage:
        # Alone: other options may show more of the usage.
        fields = {**fields, "stream_options": {"include_usage": True}}
    visit.id = make_id(route.whose, time, is_captured=is_captured)
    return Call(
        route=route,
        visit=visit,
        path=path,
        operation=OPERATIONS[path],
        body=orjson.dumps({"model": "", **{k: v for k, v in fields.items() if k not in _NOT_SENT}}),
        wants_json=wants_json(fields),
        number=number,
        sender=sender,
        who=who,
        user=user_of(route, number),
        begin=asyncio.get_running_loop().time(),
        id=visit.id,
        time=time,
        raw=raw if is_captured else b"",
        is_captured=is_captured,
        hides_usage=hides_usage,
        trace=trace if trace is not None and _TRACE.match(trace) else None,
    )

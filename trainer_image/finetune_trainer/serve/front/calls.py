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

from finetune_trainer.serve.front.rotation import number_of, sticky_key
from finetune_trainer.serve.front.routes import Route, Served
from finetune_trainer.serve.response_ids import Secret

_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(slots=True)
class Call:
    """One request under way.

    Attributes:
        fields: The body.
        number: 64 bits from the sticky key.
        sender: Digest of the API key; the client's address where no key is asked for.
        id: Response id.
        time: When it came, in UTC.
        raw: The body as it came.
        is_captured: Whether its answer goes to the recorder.
        asked: Version that a gateway has chosen; None where the front chooses.
        is_counted: Whether it belongs to one of the parallel streams of a rollout.
    """

    route: Route
    path: str
    operation: str
    fields: dict[str, Any]
    number: int
    sender: str
    begin: float
    trace: str | None
    id: str
    time: datetime
    raw: bytes
    is_captured: bool
    asked: int | None = None
    num_tries: int = 0
    is_counted: bool = False

    def body_for(self, served: Served) -> bytes:
        """Return the body with the version's own name, and without what only the front obeys."""
        self.fields["model"] = served.adapter
        for name in ("store", "metadata"):
            self.fields.pop(name, None)
        return orjson.dumps(self.fields)

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


def call_of(
    request: web.BaseRequest,
    route: Route,
    path: str,
    operation: str,
    fields: dict[str, Any],
    raw: bytes,
    digest: str | None,
    asked: int | None,
    secret: Secret,
) -> Call:
    """Return a request that was admitted."""
    number = 0
    if route.candidate is not None:
        key = sticky_key(fields)
        number = random.getrandbits(64) if key is None else number_of(route.rollout, key)
    # Where no key is asked for, a client could send another one each time.
    sender = request.remote if route.secret is None else digest
    trace = request.headers.get("traceparent")
    time = datetime.now(UTC)
    is_captured = route.capture is not None and route.capture.wants(fields)
    return Call(
        route=route,
        path=path,
        operation=operation,
        fields=fields,
        number=number,
        sender=sender or "",
        begin=asyncio.get_running_loop().time(),
        asked=asked,
        id=secret.make_id(route.whose, time, is_captured=is_captured),
        time=time,
        raw=raw,
        is_captured=is_captured,
        trace=trace if trace is not None and _TRACE.match(trace) else None,
    )

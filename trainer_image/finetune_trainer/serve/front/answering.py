"""Answers OpenAI requests: checks them, asks a version in rotation, passes its answer on.

A candidate that fails before its first byte costs the client nothing: the active version is asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.front.answers import Watched, wants_json
from finetune_trainer.serve.front.keys import Keys, digest_of
from finetune_trainer.serve.front.limits import Limits
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.rotation import (
    Failure,
    choose,
    failure_of,
    number_of,
    sticky_key,
)
from finetune_trainer.serve.front.routes import Route, Served
from finetune_trainer.serve.front.shadow import Shadow
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.proxy import (
    MAX_BODY_BYTES,
    Opened,
    Refused,
    StreamCut,
    open_answer,
    pass_on,
    read_body,
)

logger = logging.getLogger(__name__)

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
PATIENCE_SECONDS = 5.0
"""The active version is asked again for so long while it cannot be reached."""
FIRST_PAUSE_SECONDS = 0.05
MAX_BROKEN_OFF = 2
"""A request whose answer never began is sent so often at most: it may be what kills the engine."""
MAX_OPEN = 1024
"""Requests under way at once."""
CLIENT_GONE = 499
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass(slots=True)
class Call:
    """One request under way.

    Attributes:
        fields: The body.
        number: 64 bits from the sticky key.
        is_counted: Whether it belongs to one of the parallel streams of a rollout.
    """

    route: Route
    path: str
    operation: str
    fields: dict[str, Any]
    number: int
    begin: float
    trace: str | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    num_tries: int = 0
    is_counted: bool = False

    def body_for(self, served: Served) -> bytes:
        """Return the body with the version's own name."""
        self.fields["model"] = served.adapter
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


class Front:
    """Answers all requests of one process.

    Args:
        token: Returns the token that the servers ask for.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        state: State,
        keys: Keys,
        metrics: Metrics,
        shadow: Shadow,
        token: Callable[[], str],
    ) -> None:
        self._session = session
        self._state = state
        self._keys = keys
        self._metrics = metrics
        self._shadow = shadow
        self._token = token
        self._limits = Limits()
        self._num_open = 0
        self._born = int(time.time())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refused: The front answers it itself.
        """
        # As it was sent: a path that is only equal once it is decoded is another path.
        path = request.raw_path.partition("?")[0]
        wanted = "POST" if path in OPERATIONS else "GET" if path == "/v1/models" else None
        if wanted is None:
            raise Refused(404, "unknown_url", "No such URL. Try /v1/models.")
        if request.method != wanted:
            raise Refused(405, "method_not_allowed", f"Use {wanted}.")
        if not self._state.is_known:
            raise Refused(503, "starting", "The endpoints are not known yet.", retry_seconds=1)
        digest = digest_of(request.headers.get("Authorization", ""))
        if wanted == "GET":
            return self._list_models(digest)
        if self._num_open >= MAX_OPEN:
            raise Refused(503, "overloaded", "Too many requests are open.", retry_seconds=1)
        self._num_open += 1
        try:
            return await self._complete(request, path, digest)
        finally:
            self._num_open -= 1

    def _list_models(self, digest: str | None) -> web.StreamResponse:
        mine = [route for route in self._state.routes.values() if self._opens(route, digest)]
        if not mine and self._state.routes:
            raise _no_key()
        models = [
            {
                "id": route.name,
                "object": "model",
                "created": self._born,
                "owned_by": route.namespace,
            }
            for route in mine
            if route.active is not None
        ]
        body = orjson.dumps({"object": "list", "data": models})
        return web.Response(body=body, content_type="application/json")

    def _opens(self, route: Route, digest: str | None) -> bool:
        if route.secret is None:
            return True
        return digest is not None and self._keys.opens(route.secret, digest)

    async def _complete(
        self, request: web.BaseRequest, path: str, digest: str | None
    ) -> web.StreamResponse:
        name = ""
        try:
            if not (self._state.has_open or self._keys.may_open(digest)):
                raise _no_key()  # before a byte of the body is read
            fields = parse_body(await read_body(request, limit=MAX_BODY_BYTES))
            model = fields.get("model")
            if not isinstance(model, str):
                raise Refused(400, "missing_model", "`model` must be a string.", param="model")
            route = self._state.routes.get(model)
            if route is None:
                message = f"The model `{model[:128]}` does not exist."
                raise Refused(404, "model_not_found", message, param="model")
            name = route.name
            self._admit(route, digest)
            call = self._call_of(request, route, path, fields)
            return await self._answer(request, call)
        except Refused as refused:
            self._metrics.count(name, "", refused.status)
            raise

    def _admit(self, route: Route, digest: str | None) -> None:
        """Check key and rate.

        Raises:
            Refused: One of them does not allow the request.
        """
        if not self._opens(route, digest):
            raise _no_key()
        limit = route.requests_per_minute
        if limit is None:
            return
        sender = (route.name, "" if route.secret is None else digest or "")
        wait = self._limits.wait_of(sender, per_minute=limit, now=time.monotonic())
        if wait:
            message = f"More than {limit} requests per minute. Try again in {wait:.1f} s."
            raise Refused(429, "rate_limit_exceeded", message, retry_seconds=wait)

    def _call_of(
        self, request: web.BaseRequest, route: Route, path: str, fields: dict[str, Any]
    ) -> Call:
        number = 0
        if route.candidate is not None:
            key = sticky_key(fields)
            number = random.getrandbits(64) if key is None else number_of(route.rollout, key)
        trace = request.headers.get("traceparent")
        return Call(
            route=route,
            path=path,
            operation=OPERATIONS[path],
            fields=fields,
            number=number,
            begin=asyncio.get_running_loop().time(),
            trace=trace if trace is not None and _TRACE.match(trace) else None,
        )

    async def _answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        route = call.route
        health = self._state.healths[route.name]
        call.is_counted = bool(route.weight) and not health.is_tripped
        served = choose(route, health, call.number)
        opened = None
        if served is not None and served is route.candidate:
            opened = await self._ask_candidate(call, served)
        if opened is None or served is None:
            served, opened = await self._ask_active(call)
        return await self._deliver(request, call, served, opened)

    async def _try(self, call: Call, served: Served) -> tuple[Opened | None, Failure | None]:
        url = served.url + call.path
        try:
            opened = await open_answer(
                self._session, url, call.body_for(served), call.headers(self._token())
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None, Failure.UNREACHABLE
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None, Failure.BROKEN_OFF
        return opened, failure_of(opened.status)

    async def _ask_candidate(self, call: Call, served: Served) -> Opened | None:
        """Return the candidate's answer; None if it failed, which is counted."""
        opened, failure = await self._try(call, served)
        if failure is None:
            return opened
        if opened is not None:
            opened.close()
        if self._state.fail(call.route, failure) and call.is_counted:
            self._tally(call, is_candidate=True, bad=["errors"])
        self._metrics.count_bad(call.route.name, str(served.version), "errors")
        call.is_counted = False
        return None

    async def _ask_active(self, call: Call) -> tuple[Served, Opened]:
        """Ask the version that is active at the moment, and again while it cannot be reached.

        Raises:
            Refused: There is none, or it did not answer.
        """
        loop = asyncio.get_running_loop()
        end, pause, num_broken_off = loop.time() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS, 0
        while True:
            served = self._state.routes.get(call.route.name, call.route).active
            if served is None:
                message = "No version of this model is available yet."
                raise Refused(503, "no_version", message, retry_seconds=5)
            opened, failure = await self._try(call, served)
            if opened is not None and failure in (None, Failure.ERROR):
                return served, opened
            if opened is not None:
                opened.close()
            num_broken_off += failure is Failure.BROKEN_OFF
            if num_broken_off >= MAX_BROKEN_OFF or loop.time() + pause > end:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        assert failure is not None
        logger.warning("request %s of %s: the server %s", call.id, call.route.name, failure.value)
        self._metrics.count_bad(call.route.name, str(served.version), "errors")
        self._tally(call, is_candidate=False, bad=["errors"])
        raise Refused(502, "server_failed", f"The server {failure.value}.", retry_seconds=1)

    async def _deliver(
        self, request: web.BaseRequest, call: Call, served: Served, opened: Opened
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        first = loop.time()
        watched = Watched(is_stream=opened.is_stream, wants_json=wants_json(call.fields))
        headers = {"x-finetune-version": str(served.version), "x-request-id": call.id}
        try:
            answer = await pass_on(request, opened, headers, watched.take)
        except StreamCut as cut:
            logger.warning("request %s of %s: cut (%s)", call.id, call.route.name, cut)
            self._conclude(call, served, opened, watched, first, loop.time(), is_cut=True)
            raise ConnectionResetError("the answer was cut") from None
        except (asyncio.CancelledError, ConnectionError):
            self._metrics.count(call.route.name, str(served.version), CLIENT_GONE)
            raise
        # After the answer has left: what is read from it must not delay it.
        loop.call_soon(self._conclude, call, served, opened, watched, first, loop.time())
        return answer

    def _conclude(
        self,
        call: Call,
        served: Served,
        opened: Opened,
        watched: Watched,
        first: float,
        end: float,
        is_cut: bool = False,
    ) -> None:
        """Count an answer that has ended."""
        route, version = call.route, str(served.version)
        facts = watched.conclude()
        is_error = is_cut or facts.is_error or opened.status >= 500
        is_slow = route.slow_seconds is not None and first - call.begin > route.slow_seconds
        signals = {
            "errors": is_error,
            "slow": is_slow,
            "refusals": facts.is_refusal,
            "invalidJson": facts.is_invalid_json,
        }
        bad = [signal for signal, is_given in signals.items() if is_given]
        for signal in bad:
            self._metrics.count_bad(route.name, version, signal)
        is_candidate = served == route.candidate
        self._tally(call, is_candidate=is_candidate, bad=bad)
        if is_candidate:
            self._note_health(route, is_cut=is_cut, is_error=is_error)
        self._metrics.count(route.name, version, 502 if is_cut else opened.status)
        series = self._metrics.series(call.operation, route.name, served)
        series.duration.observe(end - call.begin)
        if opened.is_stream:
            series.first.observe(first - call.begin)
            num_later = (facts.num_output_tokens or watched.num_events) - 1
            if num_later > 0:
                series.per_token.observe((end - first) / num_later)
        if facts.num_input_tokens is not None:
            series.input.observe(facts.num_input_tokens)
        if facts.num_output_tokens is not None:
            series.output.observe(facts.num_output_tokens)
        copy_to = None if is_candidate or is_error else self._shadow.wants(route)
        if copy_to is not None:
            body, headers = call.body_for(copy_to), call.headers(self._token())
            wanted = wants_json(call.fields)
            self._shadow.send(route, copy_to, call.path, body, headers, wants_json=wanted)

    def _note_health(self, route: Route, *, is_cut: bool, is_error: bool) -> None:
        health = self._state.healths.get(route.name)
        if is_error:
            self._state.fail(route, Failure.BROKEN_OFF if is_cut else Failure.ERROR)
        elif health is not None and health.rollout == route.rollout:
            health.succeed()

    def _tally(self, call: Call, *, is_candidate: bool, bad: list[str]) -> None:
        tallies = self._state.tallies.get(call.route.name)
        if tallies is None:
            return
        tallies.num_requests += 1
        if call.is_counted:
            tallies.count(
                rollout=call.route.rollout,
                weight=call.route.weight,
                is_candidate=is_candidate,
                number=call.number,
                bad=bad,
            )


def _no_key() -> Refused:
    message = "Send a valid API key: `Authorization: Bearer KEY`."
    return Refused(401, "invalid_api_key", message)

"""Answers OpenAI requests: checks them, asks a version in rotation, passes its answer on.

A candidate that fails before its first byte costs the client nothing: the active version is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
from aiohttp import web

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.front.answers import Watched, wants_json
from finetune_trainer.serve.front.calls import Call, call_of
from finetune_trainer.serve.front.capturing import Capturing, Kept
from finetune_trainer.serve.front.feedback import FeedbackRoutes
from finetune_trainer.serve.front.keys import Keys, digest_of, no_key
from finetune_trainer.serve.front.limits import Limits, Slots
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.rotation import Failure, choose, failure_of
from finetune_trainer.serve.front.routes import Route, Served, find_route
from finetune_trainer.serve.front.shadow import Shadow
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.proxy import (
    MAX_BODY_BYTES,
    Opened,
    StreamCut,
    open_answer,
    pass_on,
    read_body,
)
from finetune_trainer.serve.response_ids import Secret

logger = logging.getLogger(__name__)

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
PATIENCE_SECONDS = 5.0
"""The active version is asked again for so long after the first failure. However long a server
took over a request before it died, another one is asked."""
FIRST_PAUSE_SECONDS = 0.05
MAX_BROKEN_OFF = 2
"""A request whose answer never began is sent so often at most: it may be what kills the engine."""
MAX_OPEN_PER_KEY = 128
MAX_OPEN_WITHOUT_KEY = 256
"""Of all requests without a key together; also bodies that are read before a key is known."""
NUM_SHARES = 5
"""One sender is at most this part of the requests that a rollout needs."""
CLIENT_GONE = 499


class Front:
    """Answers all requests of one process.

    Args:
        token: Returns the token that the servers ask for.
        num_fronts: Processes that share the traffic.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        state: State,
        keys: Keys,
        metrics: Metrics,
        shadow: Shadow,
        capturing: Capturing,
        token: Callable[[], str],
        num_fronts: int = 1,
    ) -> None:
        self._session = session
        self._state = state
        self._keys = keys
        self._metrics = metrics
        self._shadow = shadow
        self._capturing = capturing
        self._token = token
        self._limits = Limits()
        self._num_fronts = num_fronts
        self._slots = Slots()
        self._reading = Slots()
        self._born = int(time.time())
        self._desk = FeedbackRoutes(state=state, capturing=capturing, gatekeeper=self)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refused: The front answers it itself.
        """
        # As it was sent: a path that is only equal once it is decoded is another path.
        path = request.raw_path.partition("?")[0]
        if self._desk.has(request.method, path):
            return await self._desk.handle(request, path)
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
        return await self._complete(request, path, digest)

    def _list_models(self, digest: str | None) -> web.StreamResponse:
        mine = [route for route in self._state.routes.values() if self.opens(route, digest)]
        if not mine and self._state.routes:
            raise no_key()
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
        return json_response({"object": "list", "data": models})

    def opens(self, route: Route, digest: str | None) -> bool:
        """Tell whether a key opens an endpoint."""
        return route.secret is None or self.is_in(route.secret, digest)

    def is_in(self, secret: str, digest: str | None) -> bool:
        """Tell whether a key is in a Secret."""
        return digest is not None and self._keys.opens(secret, digest)

    async def _complete(
        self, request: web.BaseRequest, path: str, digest: str | None
    ) -> web.StreamResponse:
        name = ""
        try:
            raw = await self.read(request, digest)
            fields = parse_body(raw)
            model = fields.get("model")
            if not isinstance(model, str):
                raise Refused(400, "missing_model", "`model` must be a string.", param="model")
            route, asked = find_route(self._state.routes, model)
            if route is None:
                message = f"The model `{model[:128]}` does not exist."
                raise Refused(404, "model_not_found", message, param="model")
            name = route.name
            if not self.opens(route, digest):
                raise no_key()
            self.limit(route, digest)
            secret = Secret(self._token())
            call = call_of(
                request, route, path, OPERATIONS[path], fields, raw, digest, asked, secret
            )
            if route.secret is None:
                slot = self._slots.hold("", MAX_OPEN_WITHOUT_KEY)
            else:
                slot = self._slots.hold(call.sender, MAX_OPEN_PER_KEY)
            with slot:
                return await self._answer(request, call)
        except Refused as refused:
            self._metrics.count(name, "", refused.status)
            raise

    async def read(self, request: web.BaseRequest, digest: str | None) -> bytes:
        """Return the body. Who has no key can fill neither memory nor the slots of others.

        Raises:
            Refused: It may not be read, or cannot be.
        """
        if self._keys.may_open(digest):
            return await read_body(request, limit=MAX_BODY_BYTES)
        if not self._state.has_open:
            raise no_key()
        with self._reading.hold("", MAX_OPEN_WITHOUT_KEY):
            return await read_body(request, limit=MAX_BODY_BYTES)

    def limit(self, route: Route, digest: str | None) -> None:
        """Count a request.

        Raises:
            Refused: The key has asked too often.
        """
        limit = route.requests_per_minute
        if limit is None:
            return
        sender = (route.name, "" if route.secret is None else digest or "")
        wait = self._limits.wait_of(sender, per_minute=limit, now=time.monotonic())
        if wait:
            message = f"More than {limit} requests per minute. Try again in {wait:.1f} s."
            raise Refused(429, "rate_limit_exceeded", message, retry_seconds=wait)

    async def _answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        route = call.route
        health = self._state.healths[route.name]
        call.is_counted = bool(route.weight) and not health.is_tripped
        served = choose(route, health, call.number, call.asked)
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
        end: float | None = None
        pause, num_broken_off = FIRST_PAUSE_SECONDS, 0
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
            end = loop.time() + PATIENCE_SECONDS if end is None else end
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
        kept = Kept(watched.take) if call.is_captured else None
        headers = {"x-finetune-version": str(served.version), "x-request-id": call.id}
        if kept is not None:
            self._capturing.expect(call.route.name)
        try:
            watch = watched.take if kept is None else kept.take
            answer = await pass_on(request, opened, headers, watch)
        except StreamCut as cut:
            logger.warning("request %s of %s: cut (%s)", call.id, call.route.name, cut)
            self._conclude(call, served, opened, watched, kept, first, loop.time(), is_cut=True)
            raise ConnectionResetError("the answer was cut") from None
        except (asyncio.CancelledError, ConnectionError):
            self._metrics.count(call.route.name, str(served.version), CLIENT_GONE)
            if kept is not None:
                self._capturing.expect_no_more(call.route.name)
            raise
        # After the answer has left: what is read from it must not delay it.
        loop.call_soon(self._conclude, call, served, opened, watched, kept, first, loop.time())
        return answer

    def _conclude(
        self,
        call: Call,
        served: Served,
        opened: Opened,
        watched: Watched,
        kept: Kept | None,
        first: float,
        end: float,
        is_cut: bool = False,
    ) -> None:
        """Count an answer that has ended."""
        route, version = call.route, str(served.version)
        facts = watched.conclude()
        status = 502 if is_cut else opened.status
        bad = facts.bad_signals(status=status, is_slow=route.is_slow(first - call.begin))
        is_error = "errors" in bad
        for signal in bad:
            self._metrics.count_bad(route.name, version, signal)
        is_candidate = served == route.candidate
        self._tally(call, is_candidate=is_candidate, bad=bad)
        if is_candidate:
            self._note_health(route, is_cut=is_cut, is_error=is_error)
        self._metrics.count(route.name, version, status)
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
        if kept is not None and (status < 400 or is_error):
            self._capturing.hand_over(
                call, served, opened, facts, kept, seconds=end - call.begin, is_error=is_error
            )
        elif kept is not None:
            self._capturing.expect_no_more(route.name)
        copy_to = None if is_candidate or is_error else self._shadow.wants(route)
        if copy_to is not None:
            self._shadow.send(call, copy_to, self._token())

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
                sender=call.sender,
                most=self._most_of(call.route),
                bad=bad,
            )

    def _most_of(self, route: Route) -> int:
        """Return how many requests of one sender count at one weight.

        With fewer keys than shares, each key has an equal share. Otherwise nobody could fill up
        the required requests.
        """
        num_keys = NUM_SHARES if route.secret is None else self._keys.count_of(route.secret)
        if num_keys < NUM_SHARES:
            return -(-route.min_requests // max(1, num_keys))
        return max(1, route.min_requests // (NUM_SHARES * self._num_fronts))

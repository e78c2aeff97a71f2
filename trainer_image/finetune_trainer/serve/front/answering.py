"""Answers OpenAI requests: checks them, asks a version in rotation, passes its answer on.

A candidate that fails before its first byte costs the client nothing: the active version is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import unquote

import aiohttp
from aiohttp import web

from finetune_trainer.serve.bodies import check_fields, header_of, parse_body
from finetune_trainer.serve.errors import Refused, json_response
from finetune_trainer.serve.front.answers import UsageFilter, Watched
from finetune_trainer.serve.front.calls import OPERATIONS, Call, call_of
from finetune_trainer.serve.front.capturing import Capturing, Kept
from finetune_trainer.serve.front.feedback import (
    COMPLETIONS,
    FEEDBACK,
    PAGES,
    FeedbackRoutes,
)
from finetune_trainer.serve.front.keys import Keys, digest_of, no_key
from finetune_trainer.serve.front.ledger import UNKNOWN, Ledger, Visit
from finetune_trainer.serve.front.limits import MAX_OPEN, Slots, Take
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.rotation import Failure, choose, failure_of
from finetune_trainer.serve.front.routes import Route, Served, find_model, list_models, no_model
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.listening import trust
from finetune_trainer.serve.proxy import (
    MAX_BODY_BYTES,
    Opened,
    StreamCut,
    open_answer,
    pass_on,
    read_body,
)

logger = logging.getLogger(__name__)

MODELS = "/v1/models"
PATIENCE_SECONDS = 5.0
"""A version is asked again for so long after the first failure. However long a server took over a
request before it died, another one is asked."""
FIRST_PAUSE_SECONDS = 0.05
MAX_BROKEN_OFF = 2
"""A request whose answer never began is sent so often at most: it may be what kills the engine."""
MAX_OPEN_PER_KEY = 128
MAX_BYTES = 64 * 1024 * 1024
"""Bodies under way; the keys of an entry take a quarter, an endpoint or all without a key take
half. Each is kept twice for a moment: as it came, and as it is sent."""
MAX_OPEN_WITHOUT_KEY = 256
"""Of all requests without a key together; also bodies that are read before a key is known."""
DROPPED = "x-finetune-dropped-fields"
CLIENT_GONE = 499
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
GIVE_UP_SECONDS = 1.0
"""A client that leaves after so long without a byte has waited for the version in vain."""


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
        capturing: Capturing,
        ledger: Ledger,
        token: Callable[[], str],
    ) -> None:
        self._session = session
        self._state = state
        self._keys = keys
        self._metrics = metrics
        self._capturing = capturing
        self._token = token
        self._ledger = ledger
        self._slots = Slots()
        self._reading = Slots()
        self._bytes = Slots(MAX_BYTES)
        self._slots_of_endpoints = Slots()
        self._bytes_of_endpoints = Slots(MAX_BYTES)
        self._born = int(time.time())
        self._desk = FeedbackRoutes(self, keys, state=state, capturing=capturing, token=token)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request.

        Raises:
            Refused: The front answers it itself.
        """
        # As it was sent: a path that is only equal once it is decoded is another path.
        path = request.raw_path.partition("?")[0]
        visit = Visit(request.method if request.method in METHODS else UNKNOWN, _template_of(path))
        try:
            answer = await self._handle(request, path, visit)
            visit.status = answer.status
        except Refused as refused:
            visit.status = refused.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            visit.status = visit.status or CLIENT_GONE
            raise
        except Exception:
            visit.status = 500
            raise
        finally:
            # After the answer has left, and after what was read from it.
            asyncio.get_running_loop().call_soon(self._ledger.close, visit)
        return answer

    async def _handle(
        self, request: web.BaseRequest, path: str, visit: Visit
    ) -> web.StreamResponse:
        digest = digest_of(request.headers.get("Authorization", ""))
        if self._desk.has(request.method, path):
            with self._hold_bytes(digest) as own, self._hold_body(digest, own) as take:
                return await self._desk.handle(request, path, take, visit)
        name = path.removeprefix(f"{MODELS}/") if path.startswith(f"{MODELS}/") else ""
        wanted = "POST" if path in OPERATIONS else "GET" if path == MODELS or name else None
        if wanted is None:
            raise Refused(404, "unknown_url", "No such URL. Try /v1/models.")
        # HEAD is a GET whose answer has no body.
        if request.method not in ((wanted, "HEAD") if wanted == "GET" else (wanted,)):
            raise Refused(405, "method_not_allowed", f"Use {wanted}.")
        if not self._state.is_known:
            raise Refused(503, "starting", "The endpoints are not known yet.", retry_seconds=1)
        if wanted == "GET":
            models = self._models(digest)
            return json_response(
                find_model(models, unquote(name)) if name else {"object": "list", "data": models}
            )
        with self._hold_bytes(digest) as take:
            return await self._complete(request, path, digest, take, visit)

    def _models(self, digest: str | None) -> list[dict[str, object]]:
        """Return the models that a key opens and that a version answers.

        Raises:
            Refused: The key opens none.
        """
        mine = [route for route in self._state.routes.values() if self.opens(route, digest)]
        if not mine and self._state.routes:
            raise no_key()
        return list_models(mine, self._born)

    def opens(self, route: Route, digest: str | None) -> bool:
        """Tell whether a key opens an endpoint."""
        return route.secret is None or self._keys.opens(route.secret, digest)

    def _hold_bytes(self, digest: str | None) -> AbstractContextManager[Take]:
        """Hold what a request takes of the memory until it is answered."""
        owner = self._keys.owner_of(digest)
        return self._bytes.hold(owner, MAX_BYTES // (4 if owner else 2), 0)

    @contextmanager
    def _hold_body(self, digest: str | None, take: Take) -> Iterator[Take]:
        """Hold what a body takes of the memory before it names its endpoint, beside ``take``."""
        whose = self._state.endpoint_of(self._keys.owner_of(digest))
        most = MAX_BYTES // self._state.share_of_endpoints
        with self._bytes_of_endpoints.hold(whose, most, 0) as take_shared:

            def take_both(more: int) -> None:
                take(more)
                take_shared(more)

            yield take_both

    async def _complete(
        self, request: web.BaseRequest, path: str, digest: str | None, take: Take, visit: Visit
    ) -> web.StreamResponse:
        try:
            with self._hold_body(digest, take) as take_both:
                raw = await self.read(request, digest, take_both)
            fields = parse_body(raw)
            model = fields.get("model")
            if not isinstance(model, str):
                raise Refused(400, "missing_model", "`model` must be a string.", param="model")
            route = self._state.routes.get(model)
            if route is None or not self.opens(route, digest):
                # The same answer in both cases: a key learns only names that it opens.
                raise no_model(model)
            self._identify(visit, route, digest)
            visit.num_bytes = len(raw)
            if route.secret is not None:
                trust(request)
            dropped = check_fields(fields, drops_unknown=route.drops_unknown)
            self._ledger.admit(visit, route.rate_of(visit.key))
            owner = "" if route.secret is None else self._keys.owner_of(digest)
            call = call_of(request, route, visit, path, fields, raw, digest, owner)
            if dropped:
                self._metrics.drop_fields(route.name, len(dropped))
                call.dropped = header_of(dropped)
            take(len(call.body) + len(call.raw) - len(raw))
            # A parsed body of 1 MB may take 17 MB: none is kept while the answer is awaited.
            del raw, fields
            num_bytes = len(call.body) + len(call.raw)
            share = self._state.share_of_endpoints
            with (
                self._slots.hold(owner, MAX_OPEN_PER_KEY if owner else MAX_OPEN_WITHOUT_KEY),
                self._slots_of_endpoints.hold(route.name, MAX_OPEN // share),
                self._bytes_of_endpoints.hold(route.name, MAX_BYTES // share, num_bytes),
            ):
                return await self._answer(request, call)
        except Refused as refused:
            self._metrics.count(visit.endpoint, "", refused.status)
            raise

    async def read(self, request: web.BaseRequest, digest: str | None, take: Take) -> bytes:
        """Return the body. Who has no key can fill neither memory nor the slots of others.

        ``take`` is called with the size of each piece that has come.

        Raises:
            Refused: It may not be read, or cannot be.
        """
        if self._keys.may_open(digest):
            return await read_body(request, limit=MAX_BODY_BYTES, take=take)
        if not self._state.has_open:
            raise no_key()
        with self._reading.hold("", MAX_OPEN_WITHOUT_KEY):
            return await read_body(request, limit=MAX_BODY_BYTES, take=take)

    def limit(self, route: Route, digest: str | None, visit: Visit) -> None:
        """Count a request.

        Raises:
            Refused: The key has asked too often.
        """
        self._identify(visit, route, digest)
        self._ledger.admit(visit, route.rate_of(visit.key))

    def _identify(self, visit: Visit, route: Route, digest: str | None) -> None:
        """Note whose a request is: of which endpoint, and of which key."""
        visit.endpoint = route.name
        for secret in (route.secret, route.capture and route.capture.editors):
            if secret and digest and (name := self._keys.name_of(secret, digest)) is not None:
                visit.key = name
                break

    async def _answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        route = call.route
        health = self._state.healths[route.name]
        call.is_counted = bool(route.weight) and not health.is_tripped
        served = choose(route, health, call.number)
        opened = None
        try:
            if served is not None and served is route.candidate:
                opened = await self._ask_candidate(call, served)
            if opened is None or served is None:
                served, opened = await self._ask_active(call)
        except asyncio.CancelledError:
            self._note_left(call, call.served, asyncio.get_running_loop().time() - call.begin)
            raise
        return await self._deliver(request, call, served, opened)

    async def _try(self, call: Call, served: Served) -> tuple[Opened | None, Failure | None]:
        url = served.url + call.path
        call.served, call.visit.version = served, str(served.version)
        try:
            opened = await open_answer(
                self._session, url, call.body_for(served), call.headers(self._token())
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None, Failure.UNREACHABLE
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None, Failure.BROKEN_OFF
        return opened, failure_of(opened.status)

    async def _ask(
        self, call: Call, find: Callable[[], Served | None]
    ) -> tuple[Served | None, Opened | None, Failure | None]:
        """Ask a version, and again while it cannot be reached: both versions by the same rule.

        Args:
            call: The request.
            find: Returns the version as it is at the moment; None ends it.

        Returns:
            The version, its answer if there is one, and how it failed.
        """
        loop = asyncio.get_running_loop()
        end: float | None = None
        pause, num_broken_off = FIRST_PAUSE_SECONDS, 0
        failure: Failure | None = None
        while (served := find()) is not None:
            opened, failure = await self._try(call, served)
            if opened is not None and failure in (None, Failure.ERROR):
                return served, opened, failure
            if opened is not None:
                opened.close()
            end = loop.time() + PATIENCE_SECONDS if end is None else end
            num_broken_off += failure is Failure.BROKEN_OFF
            if num_broken_off >= MAX_BROKEN_OFF or loop.time() + pause > end:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        return served, None, failure

    async def _ask_candidate(self, call: Call, candidate: Served) -> Opened | None:
        """Return the candidate's answer; None if it failed, which is counted."""
        name, health = call.route.name, self._state.healths[call.route.name]

        def find() -> Served | None:
            route = self._state.routes.get(name)
            is_in = route is not None and route.candidate == candidate and not health.is_tripped
            return candidate if is_in else None

        _, opened, failure = await self._ask(call, find)
        if opened is not None and failure is None:
            return opened
        if opened is not None:
            opened.close()
        if failure is not None:
            self._conclude_failure(call, candidate, failure)
        call.is_counted = False
        return None

    async def _ask_active(self, call: Call) -> tuple[Served, Opened]:
        """Ask the version that is active at the moment.

        Raises:
            Refused: There is none, or it did not answer.
        """
        served, opened, failure = await self._ask(
            call, lambda: self._state.routes.get(call.route.name, call.route).active
        )
        if served is None:
            message = "No version of this model is available yet."
            raise Refused(503, "no_version", message, retry_seconds=5)
        if opened is not None:
            return served, opened
        assert failure is not None
        logger.warning("request %s of %s: the server %s", call.id, call.route.name, failure.value)
        self._conclude_failure(call, served, failure)
        raise Refused(502, "server_failed", f"The server {failure.value}.", retry_seconds=1)

    def _conclude_failure(self, call: Call, served: Served, failure: Failure) -> None:
        """Count a request that a version did not answer."""
        self._metrics.count_bad(call.route.name, str(served.version), "errors")
        self._tally(call, served, ["errors"], failure)

    def _note_left(
        self, call: Call, served: Served | None, waited: float, watched: Watched | None = None
    ) -> None:
        """Count a request whose client has left after it had waited so long for the next byte."""
        if served is None:
            return
        if watched is None:
            call.visit.estimate(seconds=waited)
        else:
            call.visit.estimate(num_events=watched.num_events, num_bytes=watched.size)
        route, version = call.route, str(served.version)
        is_silent = route.is_silent(waited)
        self._metrics.count(route.name, version, CLIENT_GONE)
        if is_silent:
            self._metrics.count_bad(route.name, version, "slow")
        bad = ["slow"] if waited >= GIVE_UP_SECONDS else []
        self._tally(call, served, bad, Failure.SILENT if is_silent else None)

    async def _deliver(
        self, request: web.BaseRequest, call: Call, served: Served, opened: Opened
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        first = loop.time()
        call.visit.first_seconds = first - call.visit.begin
        watched = Watched(is_stream=opened.is_stream, wants_json=call.wants_json)
        kept = Kept(watched.take) if call.is_captured else None
        headers = {"x-finetune-version": str(served.version), "x-request-id": call.id}
        headers.update(call.visit.headers)
        if call.dropped:
            headers[DROPPED] = call.dropped
        if kept is not None:
            self._capturing.expect(call.route.name)
        try:
            watch = watched.take if kept is None else kept.take
            edit = UsageFilter().take if call.hides_usage and opened.is_stream else None
            answer = await pass_on(request, opened, headers, watch, lambda: watched.has_ended, edit)
        except StreamCut as cut:
            logger.warning("request %s of %s: cut (%s)", call.id, call.route.name, cut)
            self._conclude(call, served, opened, watched, kept, first, loop.time(), is_cut=True)
            raise ConnectionResetError("the answer was cut") from None
        except (asyncio.CancelledError, ConnectionError) as error:
            # A client that takes nothing, and is disconnected for it, has not waited for us.
            is_waiting = isinstance(error, asyncio.CancelledError)
            waited = time.monotonic() - watched.last if is_waiting else 0.0
            self._note_left(call, served, waited, watched)
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
        status = call.visit.status = 502 if is_cut else opened.status
        if facts.num_input_tokens is not None and facts.num_output_tokens is not None:
            call.visit.num_input = facts.num_input_tokens
            call.visit.num_output = facts.num_output_tokens
        elif opened.status < 400:
            call.visit.estimate(num_events=watched.num_events, num_bytes=watched.size)
        bad = facts.bad_signals(status=status, is_slow=route.is_slow(first - call.begin))
        is_error = "errors" in bad
        for signal in bad:
            self._metrics.count_bad(route.name, version, signal)
        failure = Failure.BROKEN_OFF if is_cut else Failure.ERROR
        # A request that the engine refuses says nothing of the version that was asked.
        if is_error or status < 400:
            self._tally(call, served, bad, failure if is_error else None)
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

    def _tally(self, call: Call, served: Served, bad: list[str], failure: Failure | None) -> None:
        """Count the outcome of a request in the rollout, and in the candidate's health."""
        route, now = call.route, asyncio.get_running_loop().time()
        is_candidate = served == route.candidate
        if not is_candidate and failure is Failure.SILENT:
            pass  # one slow request of a client must not make the others' failures uncounted
        elif not is_candidate:
            self._state.note_active(route, is_error=failure is not None, now=now)
        elif failure is not None:
            self._state.fail(route, failure, call.number, call.who, now)
        else:
            self._state.succeed(route)
        tallies = self._state.tallies.get(route.name)
        if tallies is None:
            return
        tallies.num_requests += 1
        if call.is_counted:
            tallies.count(
                rollout=route.mixing,
                weight=route.weight,
                is_candidate=is_candidate,
                sender=call.who,
                user=call.user,
                needed=route.min_requests,
                is_only_sender=self._state.has_one_sender(route),
                bad=bad,
            )


def _template_of(path: str) -> str:
    """Return the template of a path, of which nothing is a client's."""
    if path in (*OPERATIONS, MODELS, FEEDBACK):
        return path
    for prefix in (f"{MODELS}/", f"{COMPLETIONS}/", PAGES):
        if path.startswith(prefix):
            return f"{prefix}{{name}}"
    return UNKNOWN

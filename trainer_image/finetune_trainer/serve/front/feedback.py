"""Routes about captured answers: the front checks who asks, and the recorder answers.

Of an answer, the id names the endpoint. So the key must open that endpoint, and an id of another
namespace or endpoint is nobody's. Editors' keys reach all answers of an endpoint. Other keys reach
the answers that were given to them. Without a key nobody reaches any, except at an endpoint that is
open to all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qs

from aiohttp import web

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.editors.page import editors_page
from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.front.capturing import Capturing
from finetune_trainer.serve.front.keys import Keys, digest_of, no_key
from finetune_trainer.serve.front.ledger import Visit
from finetune_trainer.serve.front.limits import Slots, Take
from finetune_trainer.serve.front.routes import Route
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.handover import REACH_HEADER, SENDER_HEADER, WHOSE_HEADER, Reach
from finetune_trainer.serve.response_ids import was_captured
from finetune_trainer.traffic.places import read_id, time_of

COMPLETIONS = "/v1/chat/completions"
FEEDBACK = "/v1/feedback"
PAGES = "/feedback/"
MAX_OPEN = 64
"""Requests of all senders that the recorder answers at a time, half of them of one endpoint."""
MAX_OPEN_PER_SENDER = 16


class Gatekeeper(Protocol):
    """Checks who may use an endpoint."""

    def opens(self, route: Route, digest: str | None) -> bool:
        """Tell whether a key opens an endpoint."""

    def limit(self, route: Route, digest: str | None, visit: Visit) -> None:
        """Count a request; raise Refused if there are too many."""

    async def read(self, request: web.BaseRequest, digest: str | None, take: Take) -> bytes:
        """Return the body; raise Refused."""


class FeedbackRoutes:
    """Passes requests about captured answers to the recorder.

    Args:
        token: Returns the serving token, which earlier ids were made with.
    """

    def __init__(
        self,
        gatekeeper: Gatekeeper,
        keys: Keys,
        *,
        state: State,
        capturing: Capturing,
        token: Callable[[], str],
    ) -> None:
        self._state = state
        self._token = token
        self._capturing = capturing
        self._gatekeeper = gatekeeper
        self._keys = keys
        self._slots = Slots(MAX_OPEN)
        self._slots_of_endpoints = Slots(MAX_OPEN)

    def has(self, method: str, path: str) -> bool:
        """Tell whether a request is about captured answers. Without any, there is no such route."""
        if path == COMPLETIONS:
            is_about = method in ("GET", "DELETE")
        elif path.startswith(PAGES):
            is_about = method == "GET"
        else:
            is_about = path == FEEDBACK or path.startswith(f"{COMPLETIONS}/")
        return is_about and any(route.capture for route in self._state.routes.values())

    async def handle(
        self, request: web.BaseRequest, path: str, take: Take, visit: Visit
    ) -> web.StreamResponse:
        """Answer a request. ``take`` is called with the size of each piece of its body.

        Raises:
            Refused: It is not for this sender, or the recorder is away.
        """
        if not self._state.is_known:
            raise Refused(503, "starting", "The endpoints are not known yet.", retry_seconds=1)
        if path.startswith(PAGES):
            return editors_page(path.removeprefix(PAGES))
        if path == FEEDBACK and request.method != "POST":
            raise Refused(405, "method_not_allowed", "Use POST.")
        digest = digest_of(request.headers.get("Authorization", ""))
        body = None
        if request.method == "POST":
            body = await self._gatekeeper.read(request, digest, take)
        query = request.raw_path.partition("?")[2]
        if path == COMPLETIONS:
            route = self._route_of_model(parse_qs(query).get("model", [""])[0], digest)
            response_id = None
        else:
            response_id = self._id_of(path, body)
            route = self._route_of_id(response_id, digest)
        self._gatekeeper.limit(route, digest, visit)
        is_anybody = route.secret is None and route.capture is not None and route.capture.is_open
        sender = (request.remote if is_anybody else digest) or ""
        about = {
            WHOSE_HEADER: route.name,
            SENDER_HEADER: sender,
            REACH_HEADER: self._reach_of(route, digest) or Reach.OWN,
        }
        whose = sender if is_anybody else self._keys.owner_of(digest)
        with (
            self._slots.hold(whose, MAX_OPEN_PER_SENDER),
            self._slots_of_endpoints.hold(route.name, MAX_OPEN // self._state.share_of_endpoints),
        ):
            status, headers, answer = await self._capturing.ask(
                request.method, f"{path}?{query}" if query else path, body, about
            )
        if status == 200 and headers.get("x-finetune-rating") == "down" and response_id:
            self._state.complain(
                route,
                version=int(headers["x-finetune-version"]),
                user=headers.get("x-finetune-user", ""),
                sender=whose,
                time=time_of(response_id).timestamp(),
            )
        kept = {name: headers[name] for name in ("Retry-After",) if name in headers}
        return web.Response(
            status=status, body=answer, content_type="application/json", headers=kept
        )

    def _reach_of(self, route: Route, digest: str | None) -> Reach | None:
        """Return which captured answers of an endpoint a sender reaches; None for none."""
        capture = route.capture
        if capture is None:
            return None
        if capture.editors is not None and self._keys.opens(capture.editors, digest):
            return Reach.ALL
        if route.secret is None:
            return Reach.ALL if capture.is_open else None
        if not self._gatekeeper.opens(route, digest):
            return None
        return Reach.OWN_AND_USERS if capture.editors is None else Reach.OWN

    def _route_of_model(self, model: str, digest: str | None) -> Route:
        """Return the endpoint that a list is about; the only one if it names none."""
        mine = self._mine(digest)
        named = [route for route in mine if model in ("", route.name)]
        if len(named) == 1:
            return named[0]
        if named:
            raise Refused(400, "missing_model", "Name one endpoint in `model`.", param="model")
        raise Refused(404, "model_not_found", "No such endpoint captures answers.", param="model")

    def _id_of(self, path: str, body: bytes | None) -> str:
        given: object = path.removeprefix(f"{COMPLETIONS}/").partition("/")[0]
        if path == FEEDBACK:
            given = parse_body(body or b"").get("id")
        response_id = read_id(given) if isinstance(given, str) else None
        if response_id is None:
            raise _no_answer()
        return response_id

    def _route_of_id(self, response_id: str, digest: str | None) -> Route:
        for route in self._mine(digest):
            if was_captured(route.whose, response_id, self._token()):
                return route
        raise _no_answer()

    def _mine(self, digest: str | None) -> list[Route]:
        routes = self._state.routes.values()
        mine = [route for route in routes if self._reach_of(route, digest) is not None]
        opens = self._gatekeeper.opens
        if not mine and not any(route.secret and opens(route, digest) for route in routes):
            raise no_key()
        return mine


def _no_answer() -> Refused:
    return Refused(404, "not_found", "There is no captured answer with this id.", param="id")

"""Routes about captured answers: the front checks who asks, and the recorder answers.

Of an answer, the id names the endpoint. So the key must open that endpoint, and an id of another
namespace or endpoint is nobody's. Editors' keys reach all answers of an endpoint. Other keys reach
the answers that were given to them.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qs

from aiohttp import web

from finetune_trainer.serve.bodies import parse_body
from finetune_trainer.serve.editors.page import editors_page
from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.front.capturing import Capturing
from finetune_trainer.serve.front.keys import digest_of, no_key
from finetune_trainer.serve.front.limits import Slots
from finetune_trainer.serve.front.routes import Route
from finetune_trainer.serve.front.state import State
from finetune_trainer.serve.handover import REACH_HEADER, SENDER_HEADER, WHOSE_HEADER, Reach
from finetune_trainer.traffic.places import read_id, time_of

COMPLETIONS = "/v1/chat/completions"
FEEDBACK = "/v1/feedback"
PAGES = "/feedback/"
MAX_OPEN = 64
"""Requests of all senders that the recorder answers at a time."""
MAX_OPEN_PER_SENDER = 16


class Gatekeeper(Protocol):
    """Checks who may use an endpoint."""

    def opens(self, route: Route, digest: str | None) -> bool:
        """Tell whether a key opens an endpoint."""

    def is_in(self, secret: str, digest: str | None) -> bool:
        """Tell whether a key is in a Secret."""

    def limit(self, route: Route, digest: str | None) -> None:
        """Count a request; raise Refused if there are too many."""

    async def read(self, request: web.BaseRequest, digest: str | None) -> bytes:
        """Return the body; raise Refused."""


class FeedbackRoutes:
    """Passes requests about captured answers to the recorder."""

    def __init__(self, *, state: State, capturing: Capturing, gatekeeper: Gatekeeper) -> None:
        self._state = state
        self._capturing = capturing
        self._gatekeeper = gatekeeper
        self._slots = Slots(MAX_OPEN)

    def has(self, method: str, path: str) -> bool:
        """Tell whether a request is about captured answers. Without any, there is no such route."""
        if path == COMPLETIONS:
            is_about = method in ("GET", "DELETE")
        elif path.startswith(PAGES):
            is_about = method == "GET"
        else:
            is_about = path == FEEDBACK or path.startswith(f"{COMPLETIONS}/")
        return is_about and any(route.capture for route in self._state.routes.values())

    async def handle(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer a request.

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
        body = await self._gatekeeper.read(request, digest) if request.method == "POST" else None
        query = request.raw_path.partition("?")[2]
        if path == COMPLETIONS:
            route = self._route_of_model(parse_qs(query).get("model", [""])[0], digest)
            response_id = None
        else:
            response_id = self._id_of(path, body)
            route = self._route_of_id(response_id, digest)
        self._gatekeeper.limit(route, digest)
        sender = request.remote if route.secret is None else digest
        who = self._capturing.secret.hash_person(route.whose, sender or "")
        about = {
            WHOSE_HEADER: route.name,
            SENDER_HEADER: who,
            REACH_HEADER: self._reach_of(route, digest),
        }
        with self._slots.hold(who, MAX_OPEN_PER_SENDER):
            status, headers, answer = await self._capturing.ask(
                request.method, f"{path}?{query}" if query else path, body, about
            )
        if status == 200 and headers.get("x-finetune-rating") == "down" and response_id:
            self._state.complain(
                route,
                version=int(headers["x-finetune-version"]),
                user=headers.get("x-finetune-user", ""),
                sender=who,
                time=time_of(response_id).timestamp(),
            )
        kept = {name: headers[name] for name in ("Retry-After",) if name in headers}
        return web.Response(
            status=status, body=answer, content_type="application/json", headers=kept
        )

    def _is_editor(self, route: Route, digest: str | None) -> bool:
        editors = route.capture.editors if route.capture is not None else None
        return editors is not None and self._gatekeeper.is_in(editors, digest)

    def _reach_of(self, route: Route, digest: str | None) -> Reach:
        """Return whose answers a sender reaches."""
        if self._is_editor(route, digest):
            return Reach.ALL
        has_editors = route.capture is not None and route.capture.editors is not None
        if has_editors:
            return Reach.OWN
        return Reach.ALL if route.secret is None else Reach.OWN_AND_USERS

    def _route_of_model(self, model: str, digest: str | None) -> Route:
        """Return the endpoint that a list is about; the only one if it names none."""
        mine = self._mine(digest)
        named = [route for route in mine if route.capture and model in ("", route.name)]
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
        secret = self._capturing.secret
        for route in self._mine(digest):
            if secret.has_captured(route.whose, response_id):
                return route
        raise _no_answer()

    def _mine(self, digest: str | None) -> list[Route]:
        routes = self._state.routes.values()
        mine = [
            route
            for route in routes
            if self._gatekeeper.opens(route, digest) or self._is_editor(route, digest)
        ]
        if not mine and routes:
            raise no_key()
        return mine


def _no_answer() -> Refused:
    return Refused(404, "not_found", "There is no captured answer with this id.", param="id")

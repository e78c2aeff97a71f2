"""What a front process knows: routes, the candidates' health, and counts. Event loop only."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.rotation import Failure, Health, number_of
from finetune_trainer.serve.front.routes import Route, Served, read_routes
from finetune_trainer.serve.front.tallies import Tallies

logger = logging.getLogger(__name__)


class State:
    """Follows the endpoints of a namespace.

    Args:
        server_url: URL of a server, with ``{server}`` for its name.

    Attributes:
        routes: By public model name. Replaced at each change.
        is_known: Whether the endpoints have been read once.
        has_open: Whether an endpoint asks for no key.
        captured: What the recorder has counted of each endpoint.
    """

    def __init__(self, metrics: Metrics, *, server_url: str) -> None:
        self._metrics = metrics
        self._server_url = server_url
        self.id = uuid.uuid4().hex[:16]
        self.routes: dict[str, Route] = {}
        self.is_known = False
        self.has_open = False
        self.healths: dict[str, Health] = {}
        self.tallies: dict[str, Tallies] = {}
        self._gone: dict[str, set[Served]] = {}
        self.captured: dict[str, object] = {}

    def follow(self, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the endpoints as they are now."""
        before = self.routes
        self.routes = read_routes(endpoints, before, server_url=self._server_url)
        self.is_known = True
        self.has_open = any(route.secret is None for route in self.routes.values())
        for name, route in self.routes.items():
            if route == before.get(name):
                continue
            if self.healths.setdefault(name, Health()).rollout != route.rollout:
                self.healths[name] = Health(rollout=route.rollout)
            self.tallies.setdefault(name, Tallies()).begin(route.rollout)
            self._forget_versions(name, before.get(name), route)
            self._show_weights(route)
        for name in before.keys() - self.routes.keys():
            self._metrics.forget(name)
            for each in (self.healths, self.tallies, self._gone):
                each.pop(name, None)

    def _forget_versions(self, name: str, before: Route | None, now: Route) -> None:
        # The last answers of a version come after it has left: its series go at the next change.
        served = {now.active, now.candidate}
        for gone in self._gone.get(name, set()) - served:
            self._metrics.forget(name, gone)
        was = set() if before is None else {before.active, before.candidate}
        self._gone[name] = {each for each in was - served if each is not None}

    def fail(self, route: Route, failure: Failure) -> bool:
        """Note that a candidate failed; return whether it is to blame."""
        health = self.healths.get(route.name)
        if health is None or health.rollout != route.rollout:
            return False
        was_tripped = health.is_tripped
        is_to_blame = health.fail(failure, shares_server=route.shares_server)
        if health.is_tripped and not was_tripped and route.candidate is not None:
            self._show_weights(self.routes.get(route.name, route))
            logger.warning(
                "endpoint %s: version %d is out of rotation: its server %s",
                route.name,
                route.candidate.version,
                failure.value,
            )
        return is_to_blame

    def complain(self, route: Route, *, version: int, user: str, sender: str, time: float) -> None:
        """Count a thumb down in the rollout in which the answer was given, if that still runs.

        ``time`` is Unix time of the answer.
        """
        candidate, tallies = route.candidate, self.tallies.get(route.name)
        served = {each.version for each in (route.active, candidate) if each is not None}
        if candidate is None or tallies is None or version not in served:
            return
        tallies.complain(
            rollout=route.rollout,
            is_candidate=version == candidate.version,
            number=number_of(route.rollout, user.encode()),
            sender=sender,
            time=time,
        )

    def _show_weights(self, route: Route) -> None:
        weights: dict[int, float] = {}
        candidate = 0.0
        if route.candidate is not None:
            candidate = 0.0 if self.healths[route.name].is_tripped else route.weight
            weights[route.candidate.version] = candidate
        if route.active is not None:
            # A version that moves to another server is both.
            weights[route.active.version] = weights.get(route.active.version, 0.0) + 100 - candidate
        self._metrics.show_weights(route.name, weights)

    def report(self) -> dict[str, object]:
        """Return what the operator polls."""
        return {"kind": "Front", "id": self.id, "endpoints": [*map(self._report, self.routes)]}

    def _report(self, name: str) -> dict[str, object]:
        route, tallies = self.routes[name], self.tallies[name]
        candidate = None if route.candidate is None else route.candidate.adapter
        is_tripped = candidate is not None and self.healths[name].is_tripped
        return {
            "name": name,
            "active": None if route.active is None else route.active.adapter,
            "candidate": candidate,
            "rolloutId": route.rollout or None,
            "captured": self.captured.get(name),
            "streams": tallies.report(),
            "tripped": [candidate] if is_tripped else [],
            "requests": tallies.num_requests,
        }

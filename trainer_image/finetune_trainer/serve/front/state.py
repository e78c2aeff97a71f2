"""What a front process knows: routes, the candidates' health, and counts. Event loop only."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from finetune_trainer.serve.front.calls import user_of, who_is
from finetune_trainer.serve.front.metrics import Metrics
from finetune_trainer.serve.front.rotation import Failure, Health, number_of
from finetune_trainer.serve.front.routes import Route, Served, read_routes
from finetune_trainer.serve.front.tallies import Tallies

logger = logging.getLogger(__name__)


class State:
    """Follows the endpoints of a namespace.

    Args:
        server_url: URL of a server, with ``{server}`` for its name.
        count_keys: Returns the number of keys in a Secret.

    Attributes:
        routes: By public model name. Replaced at each change.
        is_known: Whether the endpoints have been read once.
        has_open: Whether an endpoint asks for no key.
        captured: What the recorder has counted of each endpoint.
    """

    def __init__(
        self, metrics: Metrics, *, server_url: str, count_keys: Callable[[str], int]
    ) -> None:
        self._metrics = metrics
        self._count_keys = count_keys
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
            self.tallies.setdefault(name, Tallies()).begin(route.mixing)
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

    def fail(self, route: Route, failure: Failure, user: int, sender: str, now: float) -> None:
        """Note that a candidate failed for a user of a sender."""
        if (health := self._health_of(route)) is not None:
            health.fail(failure, user, sender, now)

    def succeed(self, route: Route) -> None:
        """Note that a candidate answered."""
        if (health := self._health_of(route)) is not None:
            health.succeed()

    @property
    def share_of_endpoints(self) -> int:
        """Return what each endpoint gets one of: half of the front, all of it if it is alone."""
        return 1 if len(self.routes) == 1 else 2

    def endpoint_of(self, owner: str) -> str:
        """Return the only endpoint that the Secret of an entry belongs to, else the Secret.

        ``owner`` is empty without a key: then the only endpoint without keys.
        """
        secret, _, _ = owner.partition("/")
        names = [
            name
            for name, route in self.routes.items()
            if secret in (route.secret or "", route.capture and route.capture.editors)
        ]
        return names[0] if len(names) == 1 else f"{secret}/"

    def has_one_sender(self, route: Route) -> bool:
        """Return whether users alone tell requests apart."""
        has_one_key = route.secret is not None and self._count_keys(route.secret) == 1
        return route.trusts_users or has_one_key

    def note_active(self, route: Route, *, is_error: bool, now: float) -> None:
        """Note that the active version answered, or failed."""
        health = self._health_of(route)
        if health is None or health.is_tripped or route.candidate is None:
            return
        # Without keys, senders are addresses, and many people may share one.
        is_alone = route.secret is None or self.has_one_sender(route)
        if health.note_active(is_error=is_error, is_only_sender=is_alone, now=now):
            self._show_weights(self.routes.get(route.name, route))
            logger.warning(
                "endpoint %s: version %d is out of rotation: it fails, and version %s answers",
                route.name,
                route.candidate.version,
                "-" if route.active is None else route.active.version,
            )

    def _health_of(self, route: Route) -> Health | None:
        health = self.healths.get(route.name)
        return health if health is not None and health.rollout == route.rollout else None

    def complain(self, route: Route, *, version: int, user: str, sender: str, time: float) -> None:
        """Count a thumb down in the rollout in which the answer was given, if that still runs.

        ``time`` is Unix time of the answer.
        """
        candidate, tallies = route.candidate, self.tallies.get(route.name)
        served = {each.version for each in (route.active, candidate) if each is not None}
        if candidate is None or tallies is None or version not in served:
            return
        who = who_is(route, sender)
        tallies.complain(
            rollout=route.mixing,
            is_candidate=version == candidate.version,
            sender=who,
            user=user_of(route, number_of(route.mixing, who, user.encode())),
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
            "keys": None if route.secret is None else self._count_keys(route.secret),
            **tallies.report(),
            "tripped": [candidate] if is_tripped else [],
            "requests": tallies.num_requests,
        }

"""The routing table: what a FineTuneEndpoint's spec and status ask of the front."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"[0-9]{1,9}\Z")
MIN_REQUESTS = 200
"""Default of ``rollout.minRequests``."""
SAMPLE = "0.1"
"""Default of ``capture.sample``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A version in rotation.

    Attributes:
        adapter: Its immutable name in the engine.
        url: Base URL of its server.
        sha256: Of its manifest; empty until a server has verified it.
    """

    version: int
    adapter: str
    url: str
    sha256: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptureRule:
    """Which answers are captured: those to requests that say ``store: true``, and a share.

    Attributes:
        share: Of the requests that do not say; 0 to 1. Those with ``store: false`` are never taken.
        editors: Name of the Secret with the keys of editors; None if there is none.
    """

    share: float = 0.0
    editors: str | None = None

    def wants(self, fields: Mapping[str, Any]) -> bool:
        """Tell whether the answer to a request is captured."""
        store = fields.get("store")
        if isinstance(store, bool):
            return store
        return self.share > 0 and random.random() < self.share  # noqa: S311


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What the front does with requests for one public model name.

    Attributes:
        weight: Percent of sticky keys that the candidate answers.
        rollout: Name of the rollout. Empty without a candidate.
        secret: Name of the Secret with the keys; None opens the endpoint to everyone.
        requests_per_minute: Of each key, at this front; None for no limit.
        min_requests: Requests that the candidate needs at each weight.
        slow_seconds: An answer whose first byte takes longer counts as slow.
        shadow_percent: Share of the active version's requests that a verified candidate gets a
            copy of.
        is_behind_gateway: Whether a gateway divides the requests, and names the version.
        capture: None captures nothing.
    """

    name: str
    namespace: str
    active: Served | None = None
    candidate: Served | None = None
    weight: float = 0.0
    rollout: str = ""
    secret: str | None = None
    requests_per_minute: int | None = None
    min_requests: int = 0
    slow_seconds: float | None = None
    shadow_percent: float = 0.0
    is_behind_gateway: bool = False
    capture: CaptureRule | None = None

    @property
    def whose(self) -> str:
        """Namespace and name, as response ids have them."""
        return f"{self.namespace}/{self.name}"

    def is_slow(self, seconds: float) -> bool:
        """Whether an answer whose first byte took so long counts as slow."""
        return self.slow_seconds is not None and seconds > self.slow_seconds

    @property
    def shares_server(self) -> bool:
        """Whether one server holds both versions: its death says nothing about the candidate."""
        active, candidate = self.active, self.candidate
        return active is not None and candidate is not None and active.url == candidate.url


def read_routes(
    endpoints: Mapping[str, Mapping[str, Any]], known: Mapping[str, Route], *, server_url: str
) -> dict[str, Route]:
    """Return the routes by name. An endpoint that cannot be read keeps its route in ``known``."""
    routes: dict[str, Route] = {}
    for name, endpoint in endpoints.items():
        try:
            routes[name] = read_route(endpoint, server_url=server_url)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("endpoint %s cannot be read: %s: %s", name, type(error).__name__, error)
            if name in known:
                routes[name] = known[name]
    return routes


def read_route(endpoint: Mapping[str, Any], *, server_url: str) -> Route:
    """Return the route of one endpoint.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It has not the shape of one.
    """
    metadata, spec = endpoint["metadata"], endpoint.get("spec") or {}
    status = endpoint.get("status") or {}
    candidate = status.get("candidate") or None
    access = spec.get("access") or {}
    keys, limit = access.get("keysFrom"), access.get("requestsPerMinute")
    rules = spec.get("rollout") or {}
    latency = rules.get("latencySeconds")
    rollout, weight, percent = "", 0.0, 0.0
    if candidate is not None:
        rollout = str(candidate.get("rolloutId") or candidate["adapter"])
        weight = float(candidate.get("weight") or 0)
        if weight or candidate.get("verifiedTime"):
            percent = float((spec.get("shadow") or {}).get("percent") or 0)
    return Route(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        active=_read_served(status.get("active"), server_url),
        candidate=_read_served(candidate, server_url),
        weight=weight,
        rollout=rollout,
        secret=_secret_of(keys),
        requests_per_minute=None if limit is None else int(limit),
        min_requests=int(rules.get("minRequests") or MIN_REQUESTS),
        slow_seconds=None if latency is None else float(latency),
        shadow_percent=percent,
        is_behind_gateway=(spec.get("serve") or {}).get("routing") == "Gateway",
        capture=_read_capture(spec.get("capture")),
    )


def _read_capture(capture: Mapping[str, Any] | None) -> CaptureRule | None:
    if capture is None:
        return None
    is_for_all = capture.get("include") == "All"
    return CaptureRule(
        share=float(capture.get("sample") or SAMPLE) if is_for_all else 0.0,
        editors=_secret_of(capture.get("editorsFrom")),
    )


def _secret_of(source: Mapping[str, Any] | None) -> str | None:
    """Return a Secret's name. A reference without a name opens nothing: none is called ""."""
    return None if source is None else str((source.get("secretRef") or {}).get("name") or "")


def find_route(routes: Mapping[str, Route], model: str) -> tuple[Route | None, int | None]:
    """Return the route that a request names, and the version that a gateway has chosen for it.

    A gateway writes ``<endpoint>@<version>``.
    """
    if (route := routes.get(model)) is not None:
        return route, None
    name, _, version = model.partition("@")
    route = routes.get(name)
    if route is None or not route.is_behind_gateway or not _VERSION.match(version):
        return None, None
    return route, int(version)


def _read_served(served: Mapping[str, Any] | None, server_url: str) -> Served | None:
    if not served:
        return None
    return Served(
        version=int(served["version"]),
        adapter=str(served["adapter"]),
        url=server_url.format(server=served["server"]),
        sha256=str(served.get("sha256") or ""),
    )

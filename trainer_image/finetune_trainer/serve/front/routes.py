"""The routing table: what a FineTuneEndpoint's spec and status ask of the front."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.serve.errors import Refused

logger = logging.getLogger(__name__)

MIN_REQUESTS = 200
"""Default of ``rollout.minRequests``."""
SILENCE_SECONDS = 30.0
"""Default of ``rollout.latencySeconds`` for clients that give up."""
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
        is_open: Whether somebody without a key reaches all answers of an endpoint without keys.
    """

    share: float = 0.0
    editors: str | None = None
    is_open: bool = False

    def wants(self, fields: Mapping[str, Any]) -> bool:
        """Tell whether the answer to a request is captured."""
        store = fields.get("store")
        if isinstance(store, bool):
            return store
        return self.share > 0 and random.random() < self.share  # noqa: S311


@dataclass(frozen=True, slots=True)
class Rate:
    """What may be used in a minute at this front; None for no limit."""

    requests: int | None = None
    tokens: int | None = None

    @classmethod
    def read(cls, limits: Mapping[str, Any], default: Rate | None = None) -> Rate:
        """Return the rate that an object of the spec sets; the rest is that of another one."""
        requests, tokens = limits.get("requestsPerMinute"), limits.get("tokensPerMinute")
        default = default or cls()
        return cls(
            default.requests if requests is None else int(requests),
            default.tokens if tokens is None else int(tokens),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What the front does with requests for one public model name.

    Attributes:
        weight: Percent of sticky keys that the candidate answers.
        rollout: Name of the rollout. Empty without a candidate.
        trusts_users: Whether `user` is true, whoever sends it.
        secret: Name of the Secret with the keys; None opens the endpoint to everyone.
        drops_unknown: Whether fields that the front does not know are dropped, not refused.
        rate: Of each key; without keys, of all askers together.
        rates: Of some keys, by name.
        min_requests: Requests that the candidate needs at each weight.
        slow_seconds: An answer whose first byte takes longer counts as slow.
        capture: None captures nothing.
    """

    name: str
    namespace: str
    active: Served | None = None
    candidate: Served | None = None
    weight: float = 0.0
    rollout: str = ""
    trusts_users: bool = False
    secret: str | None = None
    drops_unknown: bool = False
    rate: Rate = Rate()
    rates: Mapping[str, Rate] = field(default_factory=dict)
    min_requests: int = 0
    slow_seconds: float | None = None
    capture: CaptureRule | None = None

    @property
    def whose(self) -> str:
        """Namespace and name, as response ids have them."""
        return f"{self.namespace}/{self.name}"

    @property
    def mixing(self) -> str:
        """Name of the rollout, whatever trips it has had: it chooses who gets the candidate."""
        return self.rollout.partition(".")[0]

    def rate_of(self, key: str) -> Rate:
        """Return the limits of a key."""
        return self.rates.get(key, self.rate)

    def is_slow(self, seconds: float) -> bool:
        """Whether an answer whose first byte took so long counts as slow."""
        return self.slow_seconds is not None and seconds > self.slow_seconds

    def is_silent(self, seconds: float) -> bool:
        """Whether a client that waited so long for the next byte has met a version that hangs."""
        return seconds > (self.slow_seconds or SILENCE_SECONDS)


def list_models(routes: Iterable[Route], born: int) -> list[dict[str, object]]:
    """Return the models that a version answers, as OpenAI lists them."""
    return [
        {"id": route.name, "object": "model", "created": born, "owned_by": route.namespace}
        for route in routes
        if route.active is not None
    ]


def find_model(models: Iterable[dict[str, object]], name: str) -> dict[str, object]:
    """Return a model of a list.

    Raises:
        Refused: It is not there.
    """
    found = next((each for each in models if each["id"] == name), None)
    if found is None:
        raise no_model(name)
    return found


def no_model(name: str) -> Refused:
    """Return the refusal of a model that is not there, or that the key does not open."""
    message = f"The model `{name[:128]}` does not exist, or the key does not open it."
    return Refused(404, "model_not_found", message, param="model")


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
    keys, rate = access.get("keysFrom"), Rate.read(access)
    rules = spec.get("rollout") or {}
    latency = rules.get("latencySeconds")
    rollout, weight = "", 0.0
    if candidate is not None:
        rollout = str(candidate.get("rolloutId") or candidate["adapter"])
        weight = float(candidate.get("weight") or 0)
    return Route(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        active=_read_served(status.get("active"), server_url),
        candidate=_read_served(candidate, server_url),
        weight=weight,
        rollout=rollout,
        trusts_users=access.get("trustUsers") is True,
        secret=_secret_of(keys),
        drops_unknown=access.get("unknownFields") == "Drop",
        rate=rate,
        rates={each["name"]: Rate.read(each, rate) for each in access.get("limits") or ()},
        min_requests=int(rules.get("minRequests") or MIN_REQUESTS),
        slow_seconds=None if latency is None else float(latency),
        capture=_read_capture(spec.get("capture")),
    )


def _read_capture(capture: Mapping[str, Any] | None) -> CaptureRule | None:
    if capture is None:
        return None
    is_for_all = capture.get("include") == "All"
    return CaptureRule(
        share=float(capture.get("sample") or SAMPLE) if is_for_all else 0.0,
        editors=_secret_of(capture.get("editorsFrom")),
        is_open=capture.get("openToAll") is True,
    )


def _secret_of(source: Mapping[str, Any] | None) -> str | None:
    """Return a Secret's name. A reference without a name opens nothing: none is called ""."""
    return None if source is None else str((source.get("secretRef") or {}).get("name") or "")


def _read_served(served: Mapping[str, Any] | None, server_url: str) -> Served | None:
    if not served:
        return None
    return Served(
        version=int(served["version"]),
        adapter=str(served["adapter"]),
        url=server_url.format(server=served["server"]),
        sha256=str(served.get("sha256") or ""),
    )

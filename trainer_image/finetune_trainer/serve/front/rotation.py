"""Which version answers a request, and when the candidate leaves the rotation. Pure."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_trainer.serve.front.routes import Route, Served

FAILURES_TO_TRIP = 3
"""So many failures in a row take the candidate out of rotation."""


class Failure(enum.Enum):
    """How a server failed before the first byte of an answer."""

    UNREACHABLE = "cannot be reached"
    BROKEN_OFF = "broke off before its answer"
    UNAVAILABLE = "is not available"
    NOT_LOADED = "does not have the version"
    ERROR = "answered with an error"


_OF_SERVER = (Failure.UNREACHABLE, Failure.BROKEN_OFF, Failure.UNAVAILABLE)
"""Failures of a server, which say nothing about one of several versions on it."""


def failure_of(status: int) -> Failure | None:
    """Return what an HTTP status of a server means; None if the client shall have the answer."""
    if status in (401, 403, 404):
        # The front chooses path, token and model: these are no faults of the client.
        return Failure.NOT_LOADED
    if status in (502, 503):
        return Failure.UNAVAILABLE
    return Failure.ERROR if status >= 500 else None


def sticky_key(body: Mapping[str, Any]) -> bytes | None:
    """Return what binds a request to earlier ones: its user, else its conversation.

    The messages up to the first of the user stand for a conversation. Later turns repeat them.
    None for a request that has neither.
    """
    for field in ("user", "safety_identifier"):
        user = body.get(field)
        if isinstance(user, str) and user:
            return b"user\0" + user.encode("utf-8", "surrogatepass")
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") == "user":
                return b"conversation\0" + orjson.dumps(messages[: index + 1])
    prompt = body.get("prompt")
    return b"prompt\0" + orjson.dumps(prompt) if prompt else None


def number_of(rollout: str, key: bytes) -> int:
    """Return 64 bits that all fronts derive alike from a sticky key, anew for each rollout."""
    salt = hashlib.blake2b(rollout.encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(key, key=salt, digest_size=8).digest(), "big")


def choose(route: Route, health: Health, number: int, asked: int | None = None) -> Served | None:
    """Return the version that answers; the active one while the candidate is out of rotation.

    A sticky key that the candidate answers stays with it while the weight grows. Where a gateway
    has asked for a version, its choice counts: the candidate if that is meant, else the active one.
    """
    candidate = route.candidate
    if candidate is None or health.is_tripped or not route.weight:
        return route.active
    if asked is None:
        is_candidate = number < route.weight / 100 * 2**64
    else:
        is_candidate = asked == candidate.version
    return candidate if is_candidate else route.active


@dataclass(slots=True)
class Health:
    """The candidate's health in one rollout, as this front sees it."""

    rollout: str = ""
    is_tripped: bool = False
    num_failures: int = 0

    def succeed(self) -> None:
        """Note an answer of the candidate."""
        self.num_failures = 0

    def fail(self, failure: Failure, *, shares_server: bool) -> bool:
        """Note a failure of the candidate; return whether the candidate is to blame for it."""
        if shares_server and failure in _OF_SERVER:
            return False
        self.num_failures += 1
        if failure is Failure.UNREACHABLE or self.num_failures >= FAILURES_TO_TRIP:
            self.is_tripped = True
        return True

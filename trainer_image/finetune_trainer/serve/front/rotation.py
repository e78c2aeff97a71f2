"""Which version answers a request, and when the candidate leaves the rotation. Pure."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from finetune_trainer.serve.front.routes import Route, Served

USERS_TO_TRIP = 3
"""Failures in a row for so many users take the candidate out of rotation."""
QUIET_SECONDS = 10.0
"""So long after a failure of the active version, none of the candidate is its own fault."""


class Failure(enum.Enum):
    """How a server failed before the first byte of an answer."""

    UNREACHABLE = "cannot be reached"
    BROKEN_OFF = "broke off before its answer"
    SILENT = "did not answer before the client gave up"
    UNAVAILABLE = "is not available"
    NOT_LOADED = "does not have the version"
    ERROR = "answered with an error"


def failure_of(status: int) -> Failure | None:
    """Return what an HTTP status of a server means; None if the client shall have the answer."""
    if status in (401, 403, 404):
        # The front chooses path, token and model: these are no faults of the client.
        return Failure.NOT_LOADED
    if status in (502, 503):
        return Failure.UNAVAILABLE
    return Failure.ERROR if is_error(status) else None


def is_error(status: int) -> bool:
    """Tell whether a status of a server is neither an answer nor a refusal of the request."""
    return status != 200 and not 400 <= status < 500


def sticky_key(body: Mapping[str, Any]) -> bytes | None:
    """Return what binds a request to earlier ones: its user, else its conversation.

    The messages up to the first of the user stand for a conversation. Later turns repeat them.
    None for a request that has neither.
    """
    for name in ("user", "safety_identifier"):
        user = body.get(name)
        if isinstance(user, str) and user:
            return b"user\0" + user.encode("utf-8", "surrogatepass")
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, dict) and message.get("role") == "user":
                return b"conversation\0" + orjson.dumps(messages[: index + 1])
    prompt = body.get("prompt")
    return b"prompt\0" + orjson.dumps(prompt) if prompt else None


def number_of(rollout: str, sender: str, key: bytes) -> int:
    """Return 64 bits that all fronts derive alike from a sticky key, anew for each rollout.

    What two senders call alike are two users: they get their versions independently.
    """
    salt = hashlib.blake2b(rollout.encode(), digest_size=16).digest()
    text = b"%s\0%s" % (sender.encode(), key)
    return int.from_bytes(hashlib.blake2b(text, key=salt, digest_size=8).digest(), "big")


def choose(route: Route, health: Health, number: int) -> Served | None:
    """Return the version that answers; the active one while the candidate is out of rotation.

    A sticky key that the candidate answers stays with it while the weight grows.
    """
    candidate = route.candidate
    if candidate is None or health.is_tripped or not route.weight:
        return route.active
    return candidate if number < route.weight / 100 * 2**64 else route.active


@dataclass(slots=True)
class Health:
    """The candidate's health in one rollout, as this front sees it.

    A trip is for a candidate that is plainly broken beside an active version that answers. Counts
    decide about other harm.
    """

    rollout: str = ""
    is_tripped: bool = False
    _failed: dict[int, str] = field(default_factory=dict)
    """Senders by user."""
    _is_unreachable: bool = False
    _quiet_until: float = 0.0

    def succeed(self) -> None:
        """Note an answer of the candidate."""
        self._failed.clear()
        self._is_unreachable = False

    def fail(self, failure: Failure, user: int, sender: str, now: float) -> None:
        """Note a failure of the candidate."""
        if now >= self._quiet_until:
            self._failed[user] = sender
            self._is_unreachable |= failure is Failure.UNREACHABLE

    def note_active(self, *, is_error: bool, is_only_sender: bool, now: float) -> bool:
        """Note an answer of the active version; return whether the candidate trips.

        A sender who is one of several makes no candidate trip alone: it can call itself many users.
        """
        if is_error:
            self._quiet_until = now + QUIET_SECONDS
            self.succeed()
        is_shared = is_only_sender or len(set(self._failed.values())) > 1
        has_failed = len(self._failed) >= USERS_TO_TRIP and is_shared
        is_broken = self._is_unreachable or has_failed
        self.is_tripped |= is_broken
        return is_broken

"""Who pushes: TokenReview of the pod's projected token, cached for the token's life.

A review per push would cost more than the push. What is remembered is a digest of the token, never
the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import orjson

from finetune_api.trainer import PROGRESS_AUDIENCE
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.resource import TOKEN_REVIEWS

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_PREFIX = "system:serviceaccount:"
MAX_CACHED = 16384
REFUSAL_SECONDS = 10.0
"""A refused token is asked about again after so long: reviews are not a free service."""
UNKNOWN_LIFE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PodIdentity:
    """The pod a token was issued to."""

    namespace: str
    pod: str
    pod_uid: str


class NotAuthenticated(Exception):  # noqa: N818 - an answer, not a fault
    """The token does not prove which pod pushes; the message says why."""


class Authenticator:
    """Turns bearer tokens into pods. Event loop only.

    Args:
        client: The API client; one TokenReview per new token.
        clock: Wall time for the tokens' expiry, monotonic time for refusals.
    """

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[PodIdentity | str, float]] = OrderedDict()

    async def identify(self, token: str) -> PodIdentity:
        """Return the pod a token was issued to.

        Raises:
            NotAuthenticated: It is not valid, not for us, or not bound to a pod.
            KubeError: The API server could not be asked.
        """
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock.now().timestamp()
        known = self._known.get(digest)
        if known is None or known[1] <= now:
            known = await self._review(token, now)
            self._known[digest] = known
            self._known.move_to_end(digest)
            while len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        if isinstance(known[0], str):
            raise NotAuthenticated(known[0])
        return known[0]

    async def _review(self, token: str, now: float) -> tuple[PodIdentity | str, float]:
        review = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "spec": {"token": token, "audiences": [PROGRESS_AUDIENCE]},
        }
        answer = await self._client.create(TOKEN_REVIEWS, review)
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            reason = status.get("error") or "the API server does not accept this token"
            return reason, now + REFUSAL_SECONDS
        if PROGRESS_AUDIENCE not in (status.get("audiences") or ()):
            return f"the token is not for audience {PROGRESS_AUDIENCE}", now + REFUSAL_SECONDS
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        name = str(user.get("username") or "")
        pod, uid = extra.get(_POD_NAME), extra.get(_POD_UID)
        if not name.startswith(_PREFIX) or not pod or not uid:
            return "the token is not a pod's projected token", now + REFUSAL_SECONDS
        identity = PodIdentity(
            namespace=name.removeprefix(_PREFIX).split(":")[0], pod=pod[0], pod_uid=uid[0]
        )
        return identity, expiry_of(token) or now + UNKNOWN_LIFE_SECONDS


def expiry_of(token: str) -> float | None:
    """Return when a JWT expires, in seconds since the epoch; None if it does not say.

    The signature is not checked here: the API server has just accepted the token.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        expiry = orjson.loads(base64.urlsafe_b64decode(padded)).get("exp")
    except (binascii.Error, ValueError, AttributeError):
        return None
    return float(expiry) if isinstance(expiry, int | float) else None

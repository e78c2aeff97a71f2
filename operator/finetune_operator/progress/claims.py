"""The claims of a pod's projected token, unverified. Pure.

They are checked before the API server reviews the token, so that a token for another audience costs
no request. All claims can be forged, so they grant nothing.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_api.protocol.trainer import PROGRESS_AUDIENCE

MAX_TOKEN_CHARACTERS = 8192
LEEWAY_SECONDS = 60.0
"""How far the operator's clock may be ahead of the API server's."""
_SUBJECT = "system:serviceaccount:"


class NotAuthenticated(Exception):  # noqa: N818 - an answer, not a fault
    """The token does not prove which pod pushes; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodIdentity:
    """The pod a token was issued to."""

    namespace: str
    pod: str
    pod_uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """The claims of a token.

    Attributes:
        expires_at: When it expires, in seconds since the epoch.
    """

    identity: PodIdentity
    expires_at: float


def read_claims(token: str, now: float) -> Claims:
    """Return the claims of a projected service-account token.

    Args:
        token: A JWT, or any other text.
        now: Seconds since the epoch.

    Raises:
        NotAuthenticated: The API server issues no such token for a pod and this audience, or it has
            expired.

    Source: Kubernetes, "Managing Service Accounts", schema of service account private claims.
    """
    payload = _payload_of(token)
    audiences = payload.get("aud")
    if PROGRESS_AUDIENCE not in (audiences if isinstance(audiences, list) else [audiences]):
        raise NotAuthenticated(f"the token is not for audience {PROGRESS_AUDIENCE}")
    expires_at = payload.get("exp")
    if not isinstance(expires_at, int | float) or not isinstance(payload.get("iss"), str):
        raise NotAuthenticated("the token names no issuer or no end")
    if expires_at + LEEWAY_SECONDS <= now:
        raise NotAuthenticated("the token has expired; the kubelet writes a new one in time")
    own = _dict(payload.get("kubernetes.io"))
    pod = _dict(own.get("pod"))
    namespace, name, uid = own.get("namespace"), pod.get("name"), pod.get("uid")
    subject = payload.get("sub")
    if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str)):
        raise NotAuthenticated("the token is not a pod's projected token")
    if not isinstance(subject, str) or not subject.startswith(f"{_SUBJECT}{namespace}:"):
        raise NotAuthenticated("the token is not one of a service account of the pod's namespace")
    identity = PodIdentity(namespace=namespace, pod=name, pod_uid=uid)
    return Claims(identity=identity, expires_at=float(expires_at))


def _payload_of(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(token) > MAX_TOKEN_CHARACTERS or len(parts) != 3 or not all(parts):
        raise NotAuthenticated("not a projected service-account token")
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        payload = orjson.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError) as error:
        raise NotAuthenticated("not a projected service-account token") from error
    return _dict(payload)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

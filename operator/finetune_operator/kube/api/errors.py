"""Errors of the API server and of the way to it, typed by what the caller can do about them."""

# The names are the field's (apimachinery's api/errors), without the suffix that N818 asks for.
# ruff: noqa: N818

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson


class KubeError(Exception):
    """A request failed; the message names verb, object, answer and remedy.

    Attributes:
        request: The request, such as ``apply Job team-a/x-train``.
        status: HTTP status, 0 if no answer came.
        reason: The server's machine-readable reason, such as ``AlreadyExists``.
        details: The server's ``details``: field causes, retry hints.
    """

    remedy: ClassVar[str] = ""

    def __init__(
        self,
        request: str,
        *,
        status: int = 0,
        reason: str = "",
        message: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.request = request
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        answer = " ".join(part for part in (str(status or ""), reason) if part)
        text = f"{request}: {answer}: {message}" if answer else f"{request}: {message}"
        super().__init__(f"{text} ({self.remedy})" if self.remedy else text)

    @property
    def is_admission_denial(self) -> bool:
        """Whether a webhook or an admission policy denied the request.

        Only the text shows it: a ValidatingAdmissionPolicy answers 422, as for a malformed object,
        and a webhook may answer any status.

        Source: k8s.io/apiserver/pkg/admission/plugin (webhook/errors/statuserror.go,
        policy/validating/dispatcher.go).
        """
        return bool(_DENIAL.search(self.message))

    @property
    def is_webhook_failure(self) -> bool:
        """Whether an admission webhook could not be asked; the server answers 500 then."""
        return "failed calling webhook" in self.message


class Unauthorized(KubeError):
    """401: the credentials were refused, also after they were read again."""

    remedy = "check the kubeconfig user or the service-account token"


class Forbidden(KubeError):
    """403: no right, a quota is used up, an admission policy said no, or the namespace ends."""


class NotFound(KubeError):
    """404 for the object, its namespace or the resource type, or from a proxy.

    Catch ``ObjectNotFound`` where the object counts as deleted.
    """


class ObjectNotFound(NotFound):
    """404 of the API server for an object; on create, for its namespace."""


class AlreadyExists(KubeError):
    """409 on create: the name is taken."""


class Conflict(KubeError):
    """409 otherwise: a stale resourceVersion, a UID precondition, or another field manager."""

    remedy = "read the object again and decide anew"


class Gone(KubeError):
    """410: the resourceVersion or continue token is older than the server remembers."""

    remedy = "list again"


class Invalid(KubeError):
    """400, 405, 413, 415, 422: the server will never accept this request as it is."""


class TooManyRequests(KubeError):
    """429: the server asks to wait, and the client's own retries are used up.

    Attributes:
        retry_after: Seconds the server asked to wait, 1.0 if it named none.
    """

    def __init__(self, request: str, *, retry_after: float = 1.0, **answer: Any) -> None:
        self.retry_after = retry_after
        super().__init__(request, **answer)


class ServerUnavailable(KubeError):
    """5xx: the server failed or timed out. A write may or may not have happened."""


class TransportError(KubeError):
    """No usable answer: refused, reset, timed out, TLS. A write may or may not have happened."""

    remedy = "is the API server reachable?"


_DENIAL = re.compile(
    r"admission webhook \S+ denied the request|(Validating|Mutating)AdmissionPolicy '"
)
_UNTYPED_PATCH = "failed to create typed patch object"

_BY_STATUS: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
}


def error_from_status(
    request: str, code: int, body: Any, *, retry_after: float | None = None
) -> KubeError:
    """Build the typed error for a ``metav1.Status`` or another error body.

    Args:
        request: The request, for the message.
        code: HTTP status, or ``Status.code`` of an error inside a watch stream.
        body: The parsed body; anything but a Status becomes the message text.
        retry_after: Seconds from the Retry-After header; None without one.

    Source: k8s.io/apimachinery/pkg/api/errors; RFC 9110 10.2.3 for Retry-After.
    """
    answer: dict[str, Any] = {"status": code}
    if isinstance(body, dict) and body.get("kind") == "Status":
        details = body.get("details") or {}
        answer |= {
            "reason": body.get("reason") or "",
            "message": body.get("message") or "no message",
            "details": details,
        }
        if retry_after is None and details.get("retryAfterSeconds"):
            retry_after = float(details["retryAfterSeconds"])
    else:
        answer["message"] = str(body)[:500] if body else "empty answer"
    if code == 500 and str(answer["message"]).startswith(_UNTYPED_PATCH):
        # Server-side apply of a wrong type: a 500 without a reason that no retry mends.
        return Invalid(request, **answer)
    if code == 409 and answer.get("reason") == "AlreadyExists":
        return AlreadyExists(request, **answer)
    if answer.get("reason") == "Expired":
        return Gone(request, **answer)
    if code == 429:
        return TooManyRequests(request, retry_after=retry_after or 1.0, **answer)
    if code == 404 and _names_an_object(answer):
        return ObjectNotFound(request, **answer)
    error = _BY_STATUS.get(code) or (ServerUnavailable if code >= 500 else KubeError)
    return error(request, **answer)


def _names_an_object(answer: Mapping[str, Any]) -> bool:
    """Return whether a registry answered the 404; a 404 for an unknown type has no name.

    Source: k8s.io/apimachinery/pkg/api/errors, NewNotFound. Webhooks may send any text.
    """
    is_denial = bool(_DENIAL.search(str(answer["message"])))
    is_named = bool((answer.get("details") or {}).get("name"))
    return answer.get("reason") == "NotFound" and is_named and not is_denial


def error_from_response(
    request: str, code: int, payload: bytes, headers: Mapping[str, str]
) -> KubeError:
    """Build the typed error for an HTTP answer; see ``error_from_status``."""
    try:
        body: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = payload.decode("utf-8", "replace").strip()
    return error_from_status(request, code, body, retry_after=retry_after_seconds(headers))


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the Retry-After header in seconds; None if absent or a date (servers send numbers)."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None

"""Requests that are refused, in OpenAI's error shape, and answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body of an answer with an error."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that front or agent answers itself.

    Attributes:
        retry_seconds: When to try again; 0 if that would not help.
        param: The field of the body that is at fault.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_seconds: float = 0,
        param: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.retry_seconds = retry_seconds
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        return error_body(self.status, self.message, param=self.param or None, code=self.code)

    def response(self) -> web.Response:
        """Return the HTTP answer.

        It closes the connection if the body may not have been read. It also does so if another pod
        may do better: a Service chooses a pod for each connection, not for each request.
        """
        answer = json_response(self.body(), status=self.status)
        answer.headers.update(self.headers)
        if self.retry_seconds:
            answer.headers["Retry-After"] = str(max(1, round(self.retry_seconds + 0.499)))
        if self.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        if self.status in (400, 401, 404, 405, 408, 413, 415, 502, 503):
            answer.force_close()
        return answer

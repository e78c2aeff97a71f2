"""MLflow's REST API as far as a run needs it, with the standard library.

The official client brings a web framework, cloud clients and pickles, and waits minutes for a
server. Source: MLflow, REST API 2.0.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any

from finetune_trainer.tracking.tracker import MAX_WORDS, TrackerError

TIMEOUT_SECONDS = 5.0
"""How long a server may be silent during a call."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024

TOKEN, USERNAME, PASSWORD = (  # names as MLflow's own client has them
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"


class MlflowError(TrackerError):
    """A failed call; ``code`` is MLflow's error code, or empty."""

    def __init__(self, words: str, *, status: int | None = None, code: str = "") -> None:
        super().__init__(words, is_refusal=status in (400, 404, 413, 422))
        self.code = code


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nowhere: credentials go to the address that was allowed, and to no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> None:
        """Treat a redirect as an error."""


def authorization(read: Callable[[str], str | None]) -> dict[str, str]:
    """Return the authorization headers; none without credentials.

    ``read`` returns the value of a key such as ``MLFLOW_TRACKING_TOKEN``, or None.
    """
    if token := read(TOKEN):
        return {"Authorization": f"Bearer {token}"}
    name = read(USERNAME)
    if not name:
        return {}
    pair = f"{name}:{read(PASSWORD) or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


class MlflowServer:
    """One MLflow server; every call ends within seconds or raises :class:`MlflowError`.

    ``headers`` is called each time, because a Secret may be renewed.
    """

    def __init__(
        self,
        uri: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.uri = uri.rstrip("/")
        self._headers = headers
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call ``/api/2.0/mlflow/<path>`` with a JSON body and return the answer's."""
        data = json.dumps(body, allow_nan=False).encode()
        return self._call("POST", f"/api/2.0/mlflow/{path}", data, "application/json")

    def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Read ``/api/2.0/mlflow/<path>``."""
        asked = urllib.parse.urlencode(query)
        return self._call("GET", f"/api/2.0/mlflow/{path}?{asked}", None, "application/json")

    def put_artifact(self, path: str, file: Path, content_type: str) -> None:
        """Store a file below the server's own artefacts (``mlflow-artifacts:``)."""
        key = urllib.parse.quote(path)
        place = f"/api/2.0/mlflow-artifacts/artifacts/{key}"
        self._call("PUT", place, file.read_bytes(), content_type)

    def _call(
        self, method: str, path: str, data: bytes | None, content_type: str
    ) -> dict[str, Any]:
        url = f"{self.uri}{path}"
        try:
            headers = {"Content-Type": content_type, **self._headers()}
            request = urllib.request.Request(  # noqa: S310 - http and https alone, by the schema
                url, data=data, headers=headers, method=method
            )
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                return _read_answer(answer, self.uri)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error, self.uri) from error
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise MlflowError(f"{self.uri} cannot be reached: {str(why)[:MAX_WORDS]}") from error


def _read_answer(answer: HTTPResponse, uri: str) -> dict[str, Any]:
    text = answer.read(MAX_ANSWER_BYTES)
    try:
        body = json.loads(text or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise MlflowError(f"{uri} does not answer as MLflow does: is it the address of a server?")
    return body


def _refused(error: urllib.error.HTTPError, uri: str) -> MlflowError:
    try:
        body = json.loads(error.read(MAX_ANSWER_BYTES))
        code, message = str(body.get("error_code", "")), str(body.get("message", ""))
    except (ValueError, AttributeError, OSError, HTTPException):
        code, message = "", ""
    if error.code in (401, 403):
        words = f"{uri} refuses the credentials (HTTP {error.code})"
    elif 300 <= error.code < 400:
        words = f"{uri} sends to another address (HTTP {error.code}), which is not followed"
    else:
        told = f": {message[:MAX_WORDS]}" if message else ""
        words = f"{uri} answers HTTP {error.code}{told}"
    return MlflowError(words, status=error.code, code=code)

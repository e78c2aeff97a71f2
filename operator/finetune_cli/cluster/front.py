"""Captured answers and feedback on them, asked of a front or of ``finetune serve --capture``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from finetune_cli.cluster.errors import ApiError, ConnectionLostError
from finetune_cli.errors import CliError

Body = dict[str, Any]

LOCAL_URL = "http://127.0.0.1:8080/v1"
"""Where ``finetune serve`` listens."""
TIMEOUT_SECONDS = 30.0
MAX_TRIES = 5
PAGE = 100
"""Most answers of one page."""
_KEY_HINT = "name the file of the endpoint's key with --key-file, or set OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class Front:
    """A front's API, or that of one machine.

    Attributes:
        url: Base URL, with the ``/v1`` at its end.
        key: API key; empty without one.
    """

    url: str
    key: str = field(default="", repr=False)

    @classmethod
    def find(cls, url: str | None, key_file: Path | None) -> Front:
        """Return the front at a URL; without one the server of this machine.

        Only a URL that somebody has named gets the key of ``OPENAI_API_KEY``.

        Raises:
            CliError: The URL is none, or the file cannot be read.
        """
        key = os.environ.get("OPENAI_API_KEY", "") if url and key_file is None else ""
        if key_file is not None:
            try:
                key = key_file.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise CliError(f"--key-file {key_file} cannot be read: {error}") from error
        key = key.strip()
        if not (key.isascii() and (key.isprintable() or not key)):
            raise CliError(f"the key is none: {_KEY_HINT}")
        return cls(url=_base_url(url or LOCAL_URL), key=key)

    def list_answers(
        self, *, endpoint: str | None, version: int | None, rating: str | None, limit: int
    ) -> list[Body]:
        """Return the newest captured answers.

        Args:
            endpoint: Name of the endpoint; None if there is only one.
            version: Only answers of this version.
            rating: Only answers with this rating; ``none`` for those without one.
            limit: How many at most.

        Raises:
            ApiError: The front refused.
        """
        query = {"model": endpoint, "metadata[rating]": rating}
        found: list[Body] = []
        for answer in self._pages(query, PAGE if version is not None else min(PAGE, limit)):
            if version in (None, answer.get("version")):
                found.append(answer)
            if len(found) == limit:
                break
        return found

    def _pages(self, query: Mapping[str, str | None], size: int) -> Iterator[Body]:
        after: str | None = None
        while True:
            asked = {**query, "limit": str(size), "after": after}
            page = self._ask("GET", "/chat/completions", asked, what="list answers")
            yield from page["data"]
            after = page.get("last_id")
            if not page.get("has_more") or after is None:
                return

    def give_feedback(self, response_id: str, given: Mapping[str, str | None]) -> Body:
        """Store a rating, a correction and a reason; returns the stored entry.

        Raises:
            ApiError: There is no such answer, or the front refused.
        """
        body = {key: value for key, value in given.items() if value is not None}
        what = f"give feedback on {response_id}"
        return self._ask("POST", "/feedback", body={"id": response_id, **body}, what=what)

    def delete_answer(self, response_id: str) -> Body:
        """Delete an answer with its feedback.

        Raises:
            ApiError: There is no such answer, or the front refused.
        """
        path = f"/chat/completions/{quote(response_id, safe='')}"
        return self._ask("DELETE", path, what=f"delete {response_id}")

    def delete_user(self, user: str, endpoint: str | None) -> Body:
        """Delete all answers of a user, named as requests name it, with their feedback.

        Raises:
            ApiError: The front refused.
        """
        query = {"user": user, "model": endpoint}
        return self._ask("DELETE", "/chat/completions", query, what="delete the answers of a user")

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        *,
        body: Body | None = None,
        what: str,
    ) -> Body:
        from urllib3 import PoolManager, Retry, Timeout
        from urllib3.exceptions import HTTPError

        given = {key: value for key, value in (query or {}).items() if value is not None}
        url = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        # Another pod of the front may not know an answer for some seconds: 503 with Retry-After.
        retries = Retry(
            total=MAX_TRIES,
            connect=0,
            read=0,
            status_forcelist=(503,),
            allowed_methods=None,
            raise_on_status=False,
        )
        try:
            with PoolManager() as pool:
                # A redirect would take the key to another server.
                response = pool.request(
                    method,
                    url,
                    body=None if body is None else json.dumps(body).encode(),
                    headers=headers | ({"Content-Type": "application/json"} if body else {}),
                    timeout=Timeout(TIMEOUT_SECONDS),
                    retries=retries,
                    redirect=False,
                )
        except HTTPError as error:
            raise ConnectionLostError(
                f"cannot {what}: {self.url} does not answer: {error}; name the URL of a front or "
                "of finetune serve with --url"
            ) from error
        return _read_answer(response.status, response.data, what)


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise CliError(f"--url {url}: write the URL of a front, such as http://finetune-front/v1")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def _read_answer(status: int, data: bytes, what: str) -> Body:
    """Return the body of an answer; the message of a refusal is the server's."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    words = str(error.get("message") or "") if isinstance(error, dict) else ""
    words = words or f"HTTP {status}; is this the URL of a front, with /v1 at its end?"
    if status == 401:
        words = f"{words.removesuffix('.')}: {_KEY_HINT}"
    raise ApiError(f"cannot {what}: {words}", status=status)

"""The judge's endpoint: OpenAI's chat completions over HTTP, asked until it answers.

The key goes into one header and nowhere else. Of what the server says of a failure only its code is
told: the text may quote the row, or the key. Redirects are not followed, because the header would
go along. Proxies and certificates are those of the environment (``HTTPS_PROXY``,
``SSL_CERT_FILE``).
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any

PATIENCE_SECONDS = 300.0
"""How long a judge that has answered before may give no answer at all."""
FIRST_ANSWER_SECONDS = 120.0
"""The same before its first answer: the address may be wrong."""
MAX_BACKOFF_SECONDS = 30.0
MAX_FAILURES = 6
"""Failures of one text while others are answered; to be asked to wait is none."""
MAX_REPLY_BYTES = 1 << 20
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers of a server that will be another one later."""
_OF_ROW = frozenset({400, 413, 422})
"""Answers of a server that may be about the text: too long for the model, or against its rules."""
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SCHEMA_REFUSED = re.compile("response_format|json.schema", re.IGNORECASE)
"""What a server writes that cannot hold replies to a schema."""
_CODE = re.compile(r"\A[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")


class JudgeAway(Exception):  # noqa: N818 - what became of it
    """The judge gave no answer for longer than the patience; says why in words."""


class JudgeRefuses(Exception):  # noqa: N818
    """The judge refuses every call: wrong key, model or address; says why in words."""


class CallRefused(Exception):  # noqa: N818
    """The judge gives no answer to this text, and does to others; says why in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a judge said to one call.

    Attributes:
        text: Its words, without the key.
        input_tokens: Tokens it read; None if it does not say.
        output_tokens: Tokens it wrote; None if it does not say.
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class JudgeEndpoint:
    """One model of one server; safe to ask from several threads.

    Args:
        url: URL that ``/chat/completions`` is appended to.
        model: The model's name there.
        key: Bearer token; None sends none.
        timeout_seconds: How long one call may take.
        max_answer_tokens: What the judge may write.
        reply_schema: JSON schema that the server is to hold replies to; None asks it for nothing.
        wait: Waits for some seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None,
        timeout_seconds: float,
        max_answer_tokens: int,
        reply_schema: Mapping[str, Any] | None = None,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._max_answer_tokens = max_answer_tokens
        self._form = {} if reply_schema is None else {"response_format": _format_of(reply_schema)}
        self._wait = wait
        self._clock = clock
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._answered_at: float | None = None
        self._has_given_up = False
        self._tokens_field = "max_tokens"
        self._has_temperature = True

    def ask(self, content: str) -> Reply:
        """Put one question, again and again through outages.

        Raises:
            JudgeAway: Nothing came back to anybody for longer than the patience.
            JudgeRefuses: Asking again cannot help, nor can asking something else.
            CallRefused: Only this text gets no answer.
        """
        begun = failed_at = self._clock()
        num_failures, num_own = 0, 0
        while True:
            try:
                reply = self._ask_once(content)
            except JudgeRefuses:
                self._has_given_up = True
                raise
            except _Passing as failure:
                num_failures += 1
                # In an outage nobody is answered between two failures.
                is_own = self._has_answered_since(failed_at) and not failure.is_limit
                num_own, failed_at = num_own + is_own, self._clock()
                if num_own >= MAX_FAILURES:
                    raise CallRefused(str(failure)) from None
                seconds = failure.after or _backoff_seconds(num_failures)
                self._require_patience(failed_at - begun, seconds, failure)
                self._wait(seconds)
            except _OtherDialect:
                continue
            else:
                with self._lock:
                    self._answered_at = self._clock()
                return reply

    def _has_answered_since(self, moment: float) -> bool:
        with self._lock:
            return self._answered_at is not None and self._answered_at > moment

    def _require_patience(self, past: float, seconds: float, failure: _Passing) -> None:
        """Raise if waiting once more would be too long.

        Args:
            past: Seconds since the call was begun.
            seconds: What is to be waited now.
            failure: What the call died of last.
        """
        if self._has_given_up:  # another call knows already
            raise JudgeAway(str(failure))
        with self._lock:
            patience = FIRST_ANSWER_SECONDS if self._answered_at is None else PATIENCE_SECONDS
        if past + seconds < patience:
            return
        self._has_given_up = True
        after = f", and asks to wait for {failure.after:.0f} s" if failure.after else ""
        raise JudgeAway(f"{failure}{after}, for {past:.0f} s")

    def _ask_once(self, content: str) -> Reply:
        with self._lock:
            body: dict[str, Any] = {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                self._tokens_field: self._max_answer_tokens,
                **({"temperature": 0} if self._has_temperature else {}),
                **self._form,
            }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310 - http or https by the schema
            self._url, data=json.dumps(body).encode(), headers=headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                data = self._read_within(response)
        except urllib.error.HTTPError as error:
            with error:
                raise self._failure_of(error, body) from None
        except (OSError, HTTPException) as error:
            raise _Passing(f"it cannot be reached ({_kind_of(error)})") from None
        return self._read(data)

    def _read_within(self, response: HTTPResponse) -> bytes:
        """Read an answer; the time of a socket begins anew with every byte, and this one does not.

        Raises:
            TimeoutError: It is not there in time.
        """
        end = self._clock() + self._timeout_seconds
        data = b""
        while len(data) <= MAX_REPLY_BYTES and (piece := response.read1(1 << 16)):
            data += piece
            if self._clock() > end:
                raise TimeoutError
        return data

    def _failure_of(self, error: urllib.error.HTTPError, body: Mapping[str, Any]) -> Exception:
        try:
            text = error.read(MAX_REPLY_BYTES).decode("utf-8", "replace")
        except (OSError, HTTPException):
            text = ""
        code = self._code_of(text)
        words = f"it answers with status {error.code}" + (f" ({code})" if code else "")
        if error.code == 400 and self._learn(text, body):
            return _OtherDialect()
        if error.code in _OF_ROW and self._form and _SCHEMA_REFUSED.search(text):
            words += ": it does not take a JSON schema for its replies; set "
            return JudgeRefuses(words + "evaluation.judge.structuredReplies: false")
        if error.code in _PASSING and code not in _SPENT:
            after = _seconds_after(error.headers.get("Retry-After"))
            return _Passing(words, after=after, is_limit=error.code == 429)
        if error.code in _OF_ROW:
            return CallRefused(words)
        if 300 <= error.code < 400:
            words += ": it sends on to another address, which is to be named itself"
        return JudgeRefuses(words)

    def _learn(self, text: str, body: Mapping[str, Any]) -> bool:
        """Drop what this model does not take; reasoning models know neither of the two."""
        with self._lock:
            if "max_completion_tokens" in text and "max_tokens" in body:
                self._tokens_field = "max_completion_tokens"
                return True
            if "temperature" in text and "temperature" in body:
                self._has_temperature = False
                return True
        return False

    def _code_of(self, text: str) -> str:
        """Return the code of an error; no other word of it, for that may be a secret."""
        try:
            wire = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        error = wire.get("error", wire) if isinstance(wire, dict) else {}
        found = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
        codes = [code for code in found if isinstance(code, str) and _CODE.match(code)]
        return next((code for code in codes if self._key is None or self._key not in code), "")

    def _read(self, data: bytes) -> Reply:
        if len(data) > MAX_REPLY_BYTES:
            raise CallRefused(f"its answer is longer than {MAX_REPLY_BYTES:,} bytes")
        try:
            wire = json.loads(data)
            text = _text_of(wire["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise JudgeRefuses("what it answers is no chat completion") from None
        usage = wire.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Reply(
            text=text.replace(self._key, "***") if self._key else text,
            input_tokens=_count_of(usage.get("prompt_tokens")),
            output_tokens=_count_of(usage.get("completion_tokens")),
        )


class _Passing(Exception):  # noqa: N818
    """The call failed for now.

    Args:
        words: Why.
        after: Seconds that the server asks to wait for; None if it does not say.
        is_limit: There were too many calls: it is not this one's fault.
    """

    def __init__(self, words: str, *, after: float | None = None, is_limit: bool = False) -> None:
        super().__init__(words)
        self.after = after
        self.is_limit = is_limit


class _OtherDialect(Exception):  # noqa: N818
    """The call is to be put in another form."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _format_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's ``response_format`` for replies of a schema."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }


def _backoff_seconds(num_failures: int) -> float:
    longest = min(MAX_BACKOFF_SECONDS, 0.5 * 2**num_failures)
    return random.uniform(longest / 2, longest)  # noqa: S311


def _seconds_after(header: str | None) -> float | None:
    """Return how long a server asks to wait: seconds, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) or None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) or None


def _kind_of(error: Exception) -> str:
    """Return what kind of failure it was; its text names the URL at most by accident."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return "timed out" if isinstance(reason, TimeoutError) else type(reason).__name__


def _text_of(content: object) -> str:
    """Return the text of a message: plain, in parts, or none where all was thought."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise TypeError("content is neither text nor parts of a text")
    return content


def _count_of(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None  # type: ignore[return-value]

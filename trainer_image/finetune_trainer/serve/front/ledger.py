"""What each key has used: limits, counts by the key's name, and the access log.

The name of a key is that of its entry in the Secret. An endpoint without keys has one name, the
empty one, for all who ask.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.front.limits import Left, Limits
from finetune_trainer.serve.front.metrics import Metrics, shown_key
from finetune_trainer.serve.front.routes import Rate

access_log = logging.getLogger("finetune_trainer.serve.front.access")

BYTES_PER_TOKEN = 4
"""Of a text whose tokens nobody has counted."""
TOKENS_PER_SECOND = 20
"""Of an answer whose client left before any of it had come."""
UNKNOWN = "<unknown>"


@dataclass(slots=True)
class Visit:
    """One request of any kind, from its headers to the end of its answer.

    Attributes:
        method: HTTP method.
        path: Template of the path: nothing that a client wrote.
        begin: When its headers were there, by the monotonic clock.
        endpoint: Whose it is; empty until that is known.
        key: Name of the key; empty without one.
        id: Response id; empty where no version was asked.
        version: The version that was asked last; empty if none was.
        status: HTTP status.
        first_seconds: Until the first byte of a version's answer; None without one.
        num_bytes: Of the body of a completion; None for other requests.
        num_input: Tokens of the prompt.
        num_output: Tokens of the answer.
        is_estimated: Nobody has counted the tokens.
        num_reserved: Tokens that were taken when it was admitted; None without a limit of tokens.
        headers: Tell the client what it has left.
    """

    method: str
    path: str
    begin: float = field(default_factory=time.monotonic)
    endpoint: str = ""
    key: str = ""
    id: str = ""
    version: str = ""
    status: int = 0
    first_seconds: float | None = None
    num_bytes: int | None = None
    num_input: int = 0
    num_output: int = 0
    is_estimated: bool = False
    num_reserved: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompt_estimate(self) -> int:
        """Tokens of the prompt as far as its length tells them."""
        return (self.num_bytes or 0) // BYTES_PER_TOKEN

    def estimate(self, *, num_events: int = 0, num_bytes: int = 0, seconds: float = 0) -> None:
        """Note tokens that nobody has counted.

        Args:
            num_events: Of a stream: one for each token.
            num_bytes: Of the answer, where it is no stream.
            seconds: That the client waited, where nothing of the answer came.
        """
        self.is_estimated = True
        self.num_input = self.prompt_estimate
        waited = int(seconds * TOKENS_PER_SECOND)
        self.num_output = num_events or num_bytes // BYTES_PER_TOKEN or waited


class Ledger:
    """Admits requests, and closes each when its answer has ended.

    Args:
        logs: Whether each request gets a line in the access log.
    """

    def __init__(self, metrics: Metrics, *, logs: bool) -> None:
        self._metrics = metrics
        self._logs = logs
        self._limits = Limits()

    def admit(self, visit: Visit, rate: Rate) -> None:
        """Take what a request uses at once: itself, and the estimated tokens of its prompt.

        Raises:
            Refused: The key has asked too often, or is in debt.
        """
        now, uses = time.monotonic(), {"requests": (rate.requests, 1)}
        if visit.num_bytes is not None:
            uses["tokens"] = (rate.tokens, visit.prompt_estimate)
        whose = (visit.endpoint, visit.key)

        def look() -> dict[str, Left]:
            return {
                kind: self._limits.look((*whose, kind), per_minute=most, now=now)
                for kind, (most, _) in uses.items()
                if most is not None
            }

        left = look()
        kind = max(left, key=lambda each: left[each].wait_seconds, default="")
        if kind and (wait := left[kind].wait_seconds):
            raise Refused(
                429,
                "rate_limit_exceeded",
                f"More than {left[kind].per_minute} {kind} per minute. Try again in {wait:.1f} s.",
                retry_seconds=wait,
                headers=_headers_of(left),
            )
        for each in left:
            self._limits.spend((*whose, each), uses[each][1])
        visit.num_reserved = uses["tokens"][1] if "tokens" in left else None
        visit.headers = _headers_of(look())

    def close(self, visit: Visit) -> None:
        """Take what an answer has used beyond what was taken before; count it, and log it."""
        if visit.num_reserved is not None:
            used = visit.num_input + visit.num_output
            self._limits.spend((visit.endpoint, visit.key, "tokens"), used - visit.num_reserved)
        if visit.key and visit.num_bytes is not None:
            self._metrics.count_key(
                visit.endpoint, visit.key, visit.status, visit.num_input, visit.num_output
            )
        if self._logs:
            self._log(visit)

    def _log(self, visit: Visit) -> None:
        first = visit.first_seconds
        access_log.info(
            "%s %s status=%d endpoint=%s key=%s version=%s seconds=%.3f first=%s"
            " input_tokens=%s%d output_tokens=%s%d id=%s",
            visit.method,
            visit.path,
            visit.status,
            visit.endpoint or "-",
            shown_key(visit.key) or "-",
            visit.version or "-",
            time.monotonic() - visit.begin,
            "-" if first is None else f"{first:.3f}",
            "~" * visit.is_estimated,
            visit.num_input,
            "~" * visit.is_estimated,
            visit.num_output,
            visit.id or "-",
        )


def _headers_of(left: Mapping[str, Left]) -> dict[str, str]:
    """Return OpenAI's headers about limits."""
    headers = {}
    for kind, each in left.items():
        minutes, seconds = divmod(round(each.reset_seconds, 3), 60)
        reset = f"{minutes:.0f}m" * (minutes > 0) + f"{seconds:.5g}s"
        headers[f"x-ratelimit-limit-{kind}"] = str(each.per_minute)
        headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(each.level)))
        headers[f"x-ratelimit-reset-{kind}"] = reset
    return headers

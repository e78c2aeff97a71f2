"""Waiting over lost connections: the API server restarts, a proxy cuts, a line goes dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from finetune_cli.cluster.client import Cluster
from finetune_cli.cluster.errors import ApiError, ConnectionLostError, StreamLostError
from finetune_cli.errors import CliError

PATIENCE_SECONDS = 120.0
"""For so long an API server may be away: longer than it takes to restart."""
RETRY_SECONDS = 1.0

T = TypeVar("T")
_Moment = tuple[datetime, str]


def is_passing(error: CliError) -> bool:
    """Whether trying again may help: no connection, or a server that is not well."""
    if isinstance(error, ApiError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, ConnectionLostError)


def patiently(call: Callable[[], T]) -> T:
    """Call ``call``, repeatedly while the API server is away.

    Args:
        call: The request; it may be sent twice.

    Raises:
        CliError: The API server refused, or was away for too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except CliError as error:
            if not is_passing(error) or time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_SECONDS)


def follow_log(cluster: Cluster, pod: str) -> Iterator[str]:
    """Yield the lines of a pod's log to its end, each once, over lost connections.

    Raises:
        CliError: The log is refused, or the API server was away for `PATIENCE_SECONDS`.
    """
    last: _Moment | None = None
    away: float | None = None
    while True:
        resumed = last
        try:
            for line in cluster.read_log(pod, follow=True, since=resumed[1] if resumed else ""):
                away = None
                moment, text = _split(line)
                if moment:
                    # After a lost connection, read from the second of the last line on.
                    if resumed and moment <= resumed:
                        continue
                    # Lines of stdout and stderr may come a little out of order.
                    last = max(moment, last) if last else moment
                yield text
            return
        except StreamLostError:
            away = None  # it did answer; a log may be silent for a whole step
        except CliError as error:
            if not is_passing(error):
                raise
            away = time.monotonic() if away is None else away
            if time.monotonic() >= away + PATIENCE_SECONDS:
                raise
        time.sleep(RETRY_SECONDS)


def _split(line: str) -> tuple[_Moment | None, str]:
    """Return a line's time and text; a line of the kubelet's own has no time."""
    stamp, _, text = line.partition(" ")
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None, line
    # Python keeps microseconds; the text, always with nine digits, orders the rest.
    return ((moment, stamp), text) if moment.tzinfo else (None, line)

"""Wait for the world to get into a state; the only way tests wait.

``eventually(predicate)`` polls until the predicate returns something true and returns that. When
time is up it raises with the last value, or from the last exception: an ``assert`` inside the
predicate works and shows up in the failure. A timeout says how long it may take on a machine that
is not busy; other work makes it `PATIENCE` times as long, so only what never happens is a failure.
`patient` does the same for the limits of programs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")
PATIENCE = 4


def patient(seconds: float) -> float:
    """Return the limit of something that takes so long where nothing else runs."""
    return PATIENCE * seconds


def eventually(predicate: Callable[[], T], timeout: float = 10.0, *, interval: float = 0.02) -> T:
    """Return the first true value of ``predicate``.

    Args:
        predicate: Looks at the world; may raise while it is not ready.
        timeout: Seconds that it may take where nothing else runs.
        interval: Seconds between two looks.

    Raises:
        AssertionError: It never became true.
    """
    deadline = time.monotonic() + patient(timeout)
    while True:
        value, error = _look(predicate)
        if value:
            return cast("T", value)
        if time.monotonic() >= deadline:
            raise _failure(predicate, timeout, value, error) from error
        time.sleep(interval)


async def eventually_async(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]],
    timeout: float = 10.0,
    *,
    interval: float = 0.01,
) -> T:
    """As ``eventually``, on the running loop and its time; the predicate may be a coroutine."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patient(timeout)
    while True:
        value, error = _look(predicate)
        if asyncio.iscoroutine(value):
            try:
                value = await value
            except Exception as raised:
                value, error = None, raised
        if value:
            return cast("T", value)
        if loop.time() >= deadline:
            raise _failure(predicate, timeout, value, error) from error
        await asyncio.sleep(interval)


def _look(predicate: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return predicate(), None
    except Exception as error:
        return None, error


def _failure(
    predicate: Callable[[], Any], timeout: float, value: object, error: Exception | None
) -> AssertionError:
    seen = f"it raised {error!r}" if error is not None else f"last value {value!r}"
    name = getattr(predicate, "__qualname__", repr(predicate))
    return AssertionError(f"{name} did not become true within {patient(timeout)} s: {seen}")

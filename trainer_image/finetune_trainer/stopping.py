"""Handles SIGTERM and SIGINT from the first instruction of a stage on.

The kernel delivers to a container's first process no signal without a handler, so :func:`listen`
comes before every slow import. A separate thread acts on the signal, whatever the main thread does.
By default (see :func:`on_stop`) a stop ends the process at once, with exit code 79, event and
termination message; a killed attempt resumes the same way. Only the standard library is imported; a
unit test keeps names and numbers equal to ``finetune_api.protocol.trainer``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from finetune_trainer.process import write_last_words

EXIT_CODE = 79
FAILURE_CLASS = "Stopped"
GRACE_SECONDS = "FINETUNE_GRACE_SECONDS"

MARGIN_SECONDS = 5.0
"""So long before the grace period is over the process ends: SIGKILL leaves no time for words."""
MARGIN_SHARE = 0.2
"""Of a short grace period this share."""

DEFAULT_MESSAGE = {
    "prepare": "stopped on request before the data set was published; the next attempt begins anew",
    "train": (
        "stopped on request while no rank was training; what is stored stays, and the next attempt "
        "goes on from there"
    ),
    "evaluate": (
        "stopped on request; the adapter and the answers kept so far stay in the run's folder, and "
        "the next attempt goes on from there"
    ),
    "publish": (
        "stopped on request; a version is claimed whole or not at all, and the next attempt looks"
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The effect of a stop at some moment of a stage.

    Attributes:
        reason: Reason of the termination message, if the stop ends the process.
        message: State of the work, and what the next attempt does.
        act: Called once, in the listener's thread; the process then ends by itself, or shortly
            before the grace period is over. None ends it at once.
    """

    reason: str
    message: str
    act: Callable[[], None] | None = None


class Listener:
    """Handles the stop signals of one stage.

    ``grace_seconds`` are from SIGTERM to SIGKILL; None if unknown.
    """

    def __init__(self, stage: str, grace_seconds: float | None) -> None:
        self._stage = stage
        self._grace_seconds = grace_seconds
        self._replies = [Reply(reason="Stopped", message=DEFAULT_MESSAGE.get(stage, "stopped"))]
        self._lock = threading.RLock()
        self._is_concluded = False
        self.asked_at: float | None = None

    def listen(self) -> None:
        """Set the handlers; must be called in the main thread."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        # The interpreter writes to the pipe where it takes the signal, even if the main thread is
        # inside a library and gets to no handler.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._run, args=(reading,), name="stop", daemon=True).start()

    @property
    def deadline(self) -> float | None:
        """Moment (monotonic) at which the process ends at the latest; None for no such moment."""
        if self.asked_at is None or self._grace_seconds is None:
            return None
        margin = min(MARGIN_SECONDS, MARGIN_SHARE * self._grace_seconds)
        return self.asked_at + self._grace_seconds - margin

    @contextmanager
    def replying(self, reply: Reply) -> Iterator[None]:
        """Answer a stop with ``reply`` during the block; what comes after it is not begun then."""
        with self._lock:
            self._replies.append(reply)
            if self.asked_at is not None:
                self._answer()
        try:
            yield
        finally:
            with self._lock:
                self._replies.remove(reply)
        with self._lock:
            if self.asked_at is not None:
                self._answer()

    def conclude(self) -> None:
        """Ignore stops between the stage's end and its exit; call it in the main thread.

        An interpreter that ends removes handlers, and a SIGTERM would replace the exit code.
        """
        with self._lock:
            self._is_concluded = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def ask(self) -> None:
        """Do what a stop signal does."""
        with self._lock:
            if self.asked_at is None:
                self.asked_at = time.monotonic()
                self._answer()

    def _run(self, pipe: int) -> None:
        while True:
            deadline = self.deadline
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                with self._lock:
                    self._end(self._replies[-1])
                return
            if set(os.read(pipe, 64)) & {signal.SIGTERM, signal.SIGINT}:
                self.ask()

    def _answer(self) -> None:
        reply = self._replies[-1]
        if reply.act is None:
            self._end(reply)
        else:
            reply.act()

    def _end(self, reply: Reply) -> None:
        if self._is_concluded:
            return
        words = {
            "stage": self._stage,
            "exitCode": EXIT_CODE,
            "reason": reply.reason,
            "message": reply.message,
        }
        write_last_words(json.dumps({**words, "failureClass": FAILURE_CLASS}))
        # Not through sys.stdout: the main thread may hold its lock.
        with suppress(OSError):
            os.write(1, (json.dumps({"event": "failure", **words}) + "\n").encode())
        os._exit(EXIT_CODE)


_listener: Listener | None = None


def grace_seconds() -> float | None:
    """Return the seconds from SIGTERM to SIGKILL, or None if whoever started this did not say."""
    given = os.environ.get(GRACE_SECONDS, "")
    return float(given) if given.isdigit() else None


def listen(stage: str) -> None:
    """Hear stop signals from now on, in the name of a stage."""
    global _listener
    _listener = Listener(stage, grace_seconds())
    _listener.listen()


@contextmanager
def on_stop(
    message: str, *, reason: str = "Stopped", act: Callable[[], None] | None = None
) -> Iterator[None]:
    """Say what a stop does during the block; see :class:`Reply`. A no-op where nobody listens."""
    if _listener is None:
        yield
        return
    with _listener.replying(Reply(reason=reason, message=message, act=act)):
        yield


def deadline() -> float | None:
    """Return the moment (monotonic) at which a stopping process ends at the latest.

    None without a stop, or if the grace period is unknown.
    """
    return None if _listener is None else _listener.deadline


def conclude() -> None:
    """Let no stop come between the stage's end and its words."""
    if _listener is not None:
        _listener.conclude()

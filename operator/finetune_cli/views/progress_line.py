"""How far a question to the trainer is, on standard error: one line, and nothing for short ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from finetune_api.protocol.trainer import Event

TERMINAL_SECONDS = 0.5
PLAIN_SECONDS = 5.0
"""Least time from the start to the first line, and between two."""


class ProgressLine:
    """Shows progress events; a context that leaves a terminal's line empty.

    On a terminal each line replaces the one before.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._seconds = TERMINAL_SECONDS if self._is_terminal else PLAIN_SECONDS
        self._last = clock()
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()

    def show(self, event: Event) -> None:
        """Show how far it is, if that is news."""
        now = self._clock()
        if event.event != "progress" or event.step is None or now - self._last < self._seconds:
            return
        self._last = now
        total = f" of {event.total_steps:,}" if event.total_steps else ""
        text = f"{event.message or event.stage}: {event.step:,}{total} {event.unit}".rstrip()
        if self._is_terminal:
            self._stream.write(f"\r{text:<{self._width}}")
            self._width = max(self._width, len(text))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

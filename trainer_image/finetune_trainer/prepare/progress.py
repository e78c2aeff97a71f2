"""How far the rows are: one event for every ten thousand of them, and one at the end."""

from __future__ import annotations

from finetune_trainer.report.events import EventEmitter

PROGRESS_ROWS = 10_000
"""Rows between two events."""


class RowProgress:
    """Reports the progress of one pass over rows; ``message`` says what the pass does."""

    def __init__(self, emit: EventEmitter, message: str) -> None:
        self._emit = emit
        self._message = message
        self._told = 0

    def tell(self, done: int, total: int | None = None) -> None:
        """Emit the number of rows done, if it is new; the last of ``total`` is always emitted."""
        if done // PROGRESS_ROWS > self._told // PROGRESS_ROWS or done == total:
            self._told = done
            self._emit.progress(step=done, total_steps=total, message=self._message, unit="rows")

"""What every parent of a process of ours needs: its life, its signals, its last words."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; a no-op outside Linux.

    A killed stage must not leave ranks behind that go on writing to the same run.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def handling_stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` with SIGTERM or SIGINT during the block, then handle them as before.

    A no-op outside the main thread, where Python lets nobody handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, lambda number, _frame: handle(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def read_tail(path: Path, num_lines: int = 15) -> str:
    """Return the last lines of a log; empty if it cannot be read."""
    try:
        return "\n".join(path.read_text(errors="replace").strip().splitlines()[-num_lines:])
    except OSError:
        return ""

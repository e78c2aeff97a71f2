"""The termination message: the last words of a stage, read by whoever started it."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_api.trainer import Environment, TerminationMessage

DEFAULT_PATH = Path("/dev/termination-log")


def write_termination(message: TerminationMessage) -> None:
    """Write ``message`` to the termination log, if there is one.

    Failing to write must not hide the reason for ending, so errors are ignored: the same facts are
    on stdout.
    """
    configured = os.environ.get(Environment.TERMINATION_LOG)
    path = Path(configured) if configured else DEFAULT_PATH
    if configured is None and not path.exists():
        return
    try:
        path.write_text(message.to_text())
    except OSError:
        return

"""The termination message: the last words of a stage, read by whoever started it."""

from __future__ import annotations

from finetune_api.protocol.termination import TerminationMessage
from finetune_trainer.process import write_last_words


def write_termination(message: TerminationMessage) -> None:
    """Write ``message`` to the termination log, if there is one."""
    write_last_words(message.to_text())

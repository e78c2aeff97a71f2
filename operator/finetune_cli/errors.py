"""What the CLI reports instead of a traceback."""

from __future__ import annotations

from finetune_cli.exits import USER_ERROR


class CliError(Exception):
    """A command cannot continue; the message names the action and the remedy.

    Attributes:
        message: For people; may have several lines.
        exit_code: Exit code of the process.
    """

    def __init__(self, message: str, *, exit_code: int = USER_ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code

"""Maps any exception to the error tree, so that every end of a stage has a class and a reason."""

from __future__ import annotations

import errno
import traceback
from typing import Any

from finetune_api.trainer import Environment, ExitCode
from finetune_trainer.errors import (
    DataError,
    InternalError,
    OutOfMemory,
    RetryableError,
    Stopped,
    StorageError,
    TrainerError,
    UserError,
)

ERROR_OF_EXIT_CODE: dict[int, type[TrainerError]] = {
    ExitCode.USER_ERROR: UserError,
    ExitCode.DATA_ERROR: DataError,
    ExitCode.STORAGE: StorageError,
    ExitCode.RETRYABLE: RetryableError,
    ExitCode.OUT_OF_MEMORY: OutOfMemory,
    ExitCode.STOPPED: Stopped,
}


def classify(error: BaseException) -> TrainerError:
    """Map any exception to the error tree, keeping the cause's words."""
    if isinstance(error, TrainerError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory("OutOfMemory", f"out of memory: {_first_line(text)}")
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        "No space left on device" in text
    ):
        where = getattr(error, "filename", None) or "the work folder"
        return StorageError(
            "DiskFull",
            f"no space left while writing {where}; free space or point "
            f"{Environment.WORK_DIR} at a larger volume",
        )
    trace = "".join(traceback.format_exception(error))
    tail = "\n".join(trace.strip().splitlines()[-12:])
    return InternalError(
        type(error).__name__[:63], f"{_first_line(text) or type(error).__name__}\n{tail}"
    )


def failure_record(failure: TrainerError) -> dict[str, Any]:
    """Return what a child process leaves in a file for its parent."""
    return {
        "exit_code": failure.exit_code,
        "reason": failure.reason,
        "message": failure.message,
    }


def failure_of_record(record: dict[str, Any]) -> TrainerError:
    """Return the error that a child process left as :func:`failure_record`."""
    kind = ERROR_OF_EXIT_CODE.get(record["exit_code"], InternalError)
    return kind(record["reason"], record["message"])


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:500] if lines else ""

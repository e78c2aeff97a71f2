"""Maps any exception to the error tree, so that every end of a stage has a class and a reason."""

from __future__ import annotations

import errno
import json
import re
import traceback
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ExitCode
from finetune_trainer.errors import (
    DataError,
    Hang,
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
    ExitCode.HANG: Hang,
    ExitCode.OUT_OF_MEMORY: OutOfMemory,
    ExitCode.STOPPED: Stopped,
}


LINE_LENGTH = 300
NUM_FRAMES = 6

_OF_PROGRAM = (ImportError, AttributeError, TypeError, NameError, NotImplementedError, OSError)
"""What these quote are names of the program and of its files."""
_NO_MEMORY = re.compile(
    r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|Cuda failure 2 'out of memory'"
    r"|DefaultCPUAllocator: (can't|not enough)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""(?<!\w)(['"`])(?:\\.|(?!\1).)*(?:\1|$)""")


def classify(error: BaseException) -> TrainerError:
    """Map any exception to the error tree.

    Status and events get the type, the first line without quoted data, and the place. The whole
    traceback goes to standard error.
    """
    if isinstance(error, TrainerError):
        return error
    text = str(error)
    if is_out_of_memory(error):
        return OutOfMemory("OutOfMemory", f"out of memory: {first_line(error)}")
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        "No space left on device" in text
    ):
        where = getattr(error, "filename", None) or "the work folder"
        return StorageError(
            "DiskFull",
            f"no space left while writing {where}; free space there or give it a larger disk",
        )
    kind = type(error).__name__
    return InternalError(
        kind[:63], f"{kind}: {first_line(error) or 'no message'} (at {_place_of(error)})"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory of a GPU or of the host did not suffice.

    Torch's CPU allocator, cuBLAS and NCCL raise RuntimeErrors.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, without text that it may quote from rows."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    if not isinstance(error, _OF_PROGRAM):
        line = _QUOTED.sub(r"\1...\1", line)
    return line[:LINE_LENGTH]


def _place_of(error: BaseException) -> str:
    """Return the innermost calls, the last one first, without values."""
    frames = traceback.extract_tb(error.__traceback__)[-NUM_FRAMES:]
    places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in reversed(frames)]
    return " < ".join(places) or "an unknown place"


def failure_record(failure: TrainerError) -> dict[str, Any]:
    """Return what a child process leaves in a file for its parent."""
    return {"exit_code": failure.exit_code, "reason": failure.reason, "message": failure.message}


def failure_of_record(record: dict[str, Any]) -> TrainerError:
    """Return the error that a child process left as :func:`failure_record`."""
    kind = ERROR_OF_EXIT_CODE.get(record["exit_code"], InternalError)
    return kind(record["reason"], record["message"])


RECORD_BYTES = 8192


def reserve_record(path: Path) -> None:
    """Reserve the space of a record, because a full disk may be the failure. Raise ``OSError``."""
    path.write_bytes(b" " * RECORD_BYTES)


def leave_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record into the reserved space and cut it. Raise ``OSError`` if there is none."""
    message = record["message"]
    while len(data := json.dumps({**record, "message": message}).encode()) > RECORD_BYTES:
        message = message[: len(message) * 3 // 4]
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a record, or None if its process has left none or could not write it."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        return None
    return record

"""The failures of a stage, by their remedy.

Each class fixes exit code and failure class. ``reason`` is for machines; ``message`` says what
failed and the remedy. Numbers and names repeat ``finetune_api.protocol.trainer``, because its
import costs half a second; a unit test keeps them equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TrainerError(Exception):
    """Base of every failure a stage reports on purpose.

    ``reason`` is a stable CamelCase cause of at most 63 characters: ``BucketNotFound``.
    """

    exit_code: ClassVar[int] = 70
    failure_class: ClassVar[str] = "Internal"

    def __init__(self, reason: str, message: str) -> None:
        message = _as_text(message)
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses have constructors of their own; worker processes send all of them home.
        return _restore, (type(self), self.reason, self.message)


def _as_text(message: str) -> str:
    """Write out what is no text: a name in the data may hold half a surrogate pair, or a NUL.

    Neither passes through logs, events and terminals; the first is no UTF-8 at all.
    """
    if message.isprintable():
        return message
    text = message.encode("utf-8", "backslashreplace").decode()
    return _CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def _restore(kind: type[TrainerError], reason: str, message: str) -> TrainerError:
    error = kind.__new__(kind)
    TrainerError.__init__(error, reason, message)
    return error


class UserError(TrainerError):
    """The job asks for something that cannot work; running it again cannot help."""

    exit_code: ClassVar[int] = 64
    failure_class: ClassVar[str] = "UserError"


class DataError(TrainerError):
    """The data set is unusable; running again cannot help."""

    exit_code: ClassVar[int] = 65
    failure_class: ClassVar[str] = "DataError"


class RowsRefused(DataError):  # noqa: N818 - what happened to the rows
    """The data set is refused for some of its rows.

    ``places`` are file, line and reason of the first of these rows.
    """

    def __init__(
        self, reason: str, message: str, places: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(reason, message)
        self.places = places


class InternalError(TrainerError):
    """A defect of this program."""

    exit_code: ClassVar[int] = 70
    failure_class: ClassVar[str] = "Internal"


class StorageError(TrainerError):
    """Object storage, a local disk or a judge failed, or holds something that is not whole."""

    exit_code: ClassVar[int] = 73
    failure_class: ClassVar[str] = "StorageError"


class RetryableError(TrainerError):
    """Something outside the job failed for now; running again is expected to help."""

    exit_code: ClassVar[int] = 75
    failure_class: ClassVar[str] = "Retryable"


class Hang(TrainerError):  # noqa: N818 - the name of the failure class
    """No rank made a step for too long; running again is expected to help."""

    exit_code: ClassVar[int] = 76
    failure_class: ClassVar[str] = "Hang"


class OutOfMemory(TrainerError):  # noqa: N818 - the name of the failure class
    """The accelerator or the host ran out of memory."""

    exit_code: ClassVar[int] = 77
    failure_class: ClassVar[str] = "OutOfMemory"


class Stopped(TrainerError):  # noqa: N818 - the name of the failure class
    """Asked to stop (SIGTERM): the work was saved and a later run goes on from there."""

    exit_code: ClassVar[int] = 79
    failure_class: ClassVar[str] = "Stopped"

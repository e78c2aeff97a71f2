"""The failures of storage that callers distinguish; all others have only a ``reason``."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_trainer.errors import StorageError, UserError

# EFBIG: a file-size limit (ulimit -f, some FUSE volumes) looks the same to the user as a full disk.
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ObjectNotFound(StorageError):  # noqa: N818 - reads as the answer it is
    """There is no object under this key."""

    def __init__(self, message: str) -> None:
        super().__init__("ObjectNotFound", message)


class AlreadyExists(StorageError):  # noqa: N818 - reads as the answer it is
    """A conditional write found an object under this key; nothing was written."""

    def __init__(self, message: str) -> None:
        super().__init__("AlreadyExists", message)


class IncompleteFolder(StorageError):  # noqa: N818 - reads as the answer it is
    """A folder has no manifest: its writer has not finished, or never wrote there."""

    def __init__(self, message: str) -> None:
        super().__init__("IncompleteFolder", message)


class NothingThere(IncompleteFolder):
    """There is no folder at all: most likely its URI is wrong."""


class ChecksumMismatch(StorageError):  # noqa: N818 - reads as the answer it is
    """The stored files differ from the manifest."""

    def __init__(self, message: str) -> None:
        super().__init__("ChecksumMismatch", message)


class OtherWriterWon(StorageError):  # noqa: N818 - reads as the answer it is
    """Another writer published different files under the same prefix first."""

    def __init__(self, message: str) -> None:
        super().__init__("OtherWriterWon", message)


class CredentialsRefused(UserError):  # noqa: N818 - reads as the answer it is
    """The server does not accept the key; its permissions are unknown."""


class InterruptedRead(Exception):  # noqa: N818 - internal signal, never leaves the package
    """A body broke off; the read may go on from the offset reached so far."""


class ChangedObject(Exception):  # noqa: N818 - internal signal, never leaves the package
    """The object was replaced while it was being read; start again from offset 0."""


class DamagedRead(Exception):  # noqa: N818 - internal signal, never leaves the package
    """Every byte came and they do not fit the object's checksum; read it again."""


def disk_full(path: Path, num_bytes: int | None, cause: object) -> StorageError:
    """Build the error of a local write that found no room; ``num_bytes`` are still needed."""
    folder = path if path.is_dir() else path.parent
    try:
        free = f"{shutil.disk_usage(folder).free} bytes free"
    except OSError:
        free = "free space unknown"
    needed = "size unknown" if num_bytes is None else f"{num_bytes} bytes needed"
    return StorageError(
        "DiskFull",
        f"Cannot write {path}: {cause} ({needed}, {free} in {folder}). "
        "Free space there, give the volume a larger size, or name a larger disk.",
    )


@contextmanager
def local_writes(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Turn OS errors of writing ``path`` into a typed error that names it.

    Raises:
        StorageError: ``DiskFull`` or ``LocalIoError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise disk_full(path, num_bytes, error.strerror) from error
        raise StorageError(
            "LocalIoError",
            f"Cannot write {path}: {error.strerror or error}. "
            "Check that the folder exists, is mounted read-write and belongs to this user.",
        ) from error

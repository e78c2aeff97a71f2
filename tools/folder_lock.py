"""Lets one process at a time use a folder, and tells the others which one it is."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = ".lock"


class FolderInUse(RuntimeError):  # noqa: N818 - reads as the answer it is
    """Another process uses the folder."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other processes that ask out of a folder, until the end of the block or of this process.

    The kernel keeps the lock, so that a process that was killed leaves nothing to tidy up.

    Args:
        folder: Created if need be. Its lock file is never removed: two processes would otherwise
            hold locks on two files of one name.

    Raises:
        FolderInUse: Says which process holds it and what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip()
            holder = f"process {pid}" if pid else "another process"
            stop = f"stop it (Ctrl-C where it runs, or kill {pid})" if pid else "stop it"
            raise FolderInUse(
                f"{holder} is using {folder}. Wait until it ends, or {stop}, or run this one with "
                "a cache of its own: set XDG_CACHE_HOME to another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def empty_folder(folder: Path) -> None:
    """Delete what is in a folder that this process holds."""
    for child in folder.iterdir():
        if child.name == LOCK_NAME:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()

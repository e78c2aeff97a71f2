"""Keeps runs apart that would write to the same place; the kernel frees the lock of a dead one."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

from finetune_cli.errors import CliError
from finetune_cli.exits import STORAGE, USER_ERROR
from finetune_cli.local.job import LocalRun

WORK_LOCK = "run.lock"
OUTPUT_LOCK = ".run.lock"


@contextmanager
def locked(run: LocalRun) -> Iterator[None]:
    """Hold the work folder and the output folder of a run.

    Raises:
        CliError: Another run holds one of them, or one of them cannot be written to.
    """
    with ExitStack() as stack:
        stack.enter_context(_locked_work(run))
        if (folder := output_folder(run)) is not None:
            stack.enter_context(_locked_output(folder, run))
        yield


@contextmanager
def locked_state(file: Path) -> Iterator[None]:
    """Hold the state file of a schedule.

    Raises:
        CliError: Another process holds it, or its folder cannot be written to.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(file.with_suffix(".lock"), f"{os.getpid()}")
    except _TakenError as error:
        raise CliError(
            f"this schedule is running already (process {error}, state {file}); wait for it"
        ) from error
    except OSError as error:
        raise _no_write(f"cannot write to {file.parent}", "--state", error) from error
    with lock:
        yield


def output_folder(run: LocalRun) -> Path | None:
    """Return where a run's results go on this machine; None where they go elsewhere."""
    parts = urlsplit(run.job.spec.output.uri)
    return Path(unquote(parts.path)) / run.job.run_prefix if parts.scheme == "file" else None


@contextmanager
def _locked_work(run: LocalRun) -> Iterator[None]:
    try:
        run.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _take(run.work_dir / WORK_LOCK, f"{os.getpid()}")
        run.job_file.write_text(run.job.to_json())
    except _TakenError as error:
        raise CliError(
            f"this job is running already (process {error}, work folder {run.work_dir}); wait for "
            "it, or start another run with --fresh"
        ) from error
    except OSError as error:
        raise _no_write(
            f"cannot use the work folder {run.work_dir}", "--work-dir", error
        ) from error
    with lock:
        yield


@contextmanager
def _locked_output(folder: Path, run: LocalRun) -> Iterator[None]:
    holder = f"process {os.getpid()} on {socket.gethostname()}, work folder {run.work_dir}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(folder / OUTPUT_LOCK, holder)
    except _TakenError as error:
        raise CliError(
            f"another run writes to {folder} ({error}); wait for it, or give this run another "
            "folder with --output-dir"
        ) from error
    except OSError as error:
        what = f"output.uri {run.job.spec.output.uri}: cannot write to {folder}"
        raise _no_write(what, "--output-dir", error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / OUTPUT_LOCK).unlink()
        lock.close()


def _no_write(what: str, option: str, error: OSError) -> CliError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    space = "free space there, or " if is_full else ""
    return CliError(
        f"{what}: {error.strerror or error}; {space}name another folder with {option}",
        exit_code=STORAGE if is_full or option == "--output-dir" else USER_ERROR,
    )


class _TakenError(Exception):
    """Somebody else holds the lock; says who."""


def _take(file: Path, holder: str) -> TextIO:
    """Lock a file and write its holder.

    A run removes its file at its end, so an opened file may be gone once it is locked.

    Raises:
        _TakenError: Another process holds it.
        OSError: It cannot be written.
    """
    while True:
        lock = file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(lock, file):
                lock.close()
                continue
            lock.truncate(0)
            lock.write(holder)
            lock.flush()
        except BlockingIOError as error:
            lock.seek(0)
            words = lock.read().strip() or "unknown"
            lock.close()
            raise _TakenError(words) from error
        except OSError:
            with suppress(OSError):
                lock.close()
            raise
        return lock


def _is_at(lock: TextIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), file.stat())
    except FileNotFoundError:
        return False

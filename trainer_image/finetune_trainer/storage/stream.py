"""Reads an object through cut connections, and to a file that survives a killed process.

The partial file is beside its target with a note of the object's version, so that a resumed
download never joins two different objects.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_trainer.errors import StorageError
from finetune_trainer.storage.errors import (
    ChangedObject,
    ChecksumMismatch,
    DamagedRead,
    InterruptedRead,
    disk_full,
    local_writes,
)

CHUNK_BYTES = 1024 * 1024

MAX_ATTEMPTS = 5
"""Consecutive attempts that bring no byte before a read gives up."""

READ_ATTEMPTS = 3
"""How often an object is read that arrives with other bytes than were stored."""

_MAX_BACKOFF_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBody:
    """The rest of an object, from an offset on.

    Attributes:
        offset: Where the body starts; a server that ignores ranges starts at 0.
        num_bytes: Size of the whole object; None if unknown.
        version: Tag of the object's content; empty if unknown.
        chunks: The bytes; raises ``InterruptedRead`` when the connection breaks.
        close: Closes the connection.
    """

    offset: int
    num_bytes: int | None
    version: str
    chunks: Iterator[bytes]
    close: Callable[[], None] = lambda: None


class RangeSource(Protocol):
    """Something that can open an object at an offset."""

    def open_range(self, key: str, offset: int, version: str) -> OpenBody:
        """Open an object at an offset; any ``version`` but an empty one must match.

        Raises:
            InterruptedRead: A later attempt may succeed.
            ChangedObject: Another version, or shorter than ``offset``.
            StorageError: It cannot be read.
        """


def read_stream(
    source: RangeSource, key: str, *, offset: int = 0, version: str = "", uri: str
) -> Generator[OpenBody | bytes, None, None]:
    """Yield first the opened body, then its bytes, in order.

    The caller has the first ``offset`` bytes of ``version``. ``uri`` is for messages.

    Raises:
        StorageError: ``Unreachable`` after :data:`MAX_ATTEMPTS` attempts without progress.
        ChangedObject: The object changed since ``version``, or while it was read.
    """
    expected: int | None = None
    announced = False
    failures = 0
    while True:
        body = None
        try:
            body = source.open_range(key, offset, version)
            version = version or body.version
            expected = body.num_bytes if body.num_bytes is not None else expected
            if not announced:
                offset, announced = body.offset, True
                yield body
            skip = offset - body.offset
            for chunk in body.chunks:
                fresh = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if fresh:
                    offset += len(fresh)
                    failures = 0
                    yield fresh
            if expected is None or offset >= expected:
                return
            raise InterruptedRead(f"the body ended at byte {offset} of {expected}")
        except InterruptedRead as error:
            if expected is not None and offset >= expected:
                return  # it broke after the last byte
            failures += 1
            if failures >= MAX_ATTEMPTS:
                raise StorageError(
                    "Unreachable",
                    f"Reading {uri} broke off at byte {offset} of {expected or 'unknown'} and "
                    f"{failures} attempts brought no more: {error}. Check the network and the "
                    "server; the next run goes on from there.",
                ) from error
            time.sleep(_backoff_seconds(failures))
        finally:
            if body is not None:
                body.close()


def read_object(source: RangeSource, key: str, *, uri: str) -> Iterator[bytes]:
    """Yield the bytes of one whole object, in order.

    Raises:
        StorageError: ``Unreachable``, ``ObjectChanging``, ``ObjectNotFound``, or
            ``ChecksumMismatch`` after the last byte.
    """
    try:
        with closing(read_stream(source, key, uri=uri)) as stream:
            for part in stream:
                if isinstance(part, bytes):
                    yield part
    except ChangedObject as error:
        raise StorageError(
            "ObjectChanging",
            f"{uri} was replaced while it was being read ({error}). Run again; if it happens "
            "again, find the other writer.",
        ) from error
    except DamagedRead as error:
        raise damaged(uri, error, num_reads=1) from error


def download(source: RangeSource, key: str, path: Path, *, uri: str) -> None:
    """Write an object to ``path``; resumes from ``<path>.partial`` and renames when complete.

    Raises:
        StorageError: ``Unreachable``, ``DiskFull``, ``ObjectNotFound``, ``ChecksumMismatch`` or
            what the source raises.
    """
    with local_writes(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    num_damaged = 0
    for attempt in range(MAX_ATTEMPTS):
        try:
            _download_once(source, key, path, uri=uri)
            return
        except ChangedObject as error:
            discard_partial(path)
            if attempt + 1 == MAX_ATTEMPTS:
                raise StorageError(
                    "ObjectChanging",
                    f"{uri} was replaced {MAX_ATTEMPTS} times while it was being read ({error}). "
                    "Find and stop the other writer.",
                ) from error
        except DamagedRead as error:
            discard_partial(path)
            num_damaged += 1
            if num_damaged == READ_ATTEMPTS or attempt + 1 == MAX_ATTEMPTS:
                raise damaged(uri, error, num_reads=num_damaged) from error
            time.sleep(_backoff_seconds(num_damaged))


def damaged(uri: str, cause: object, *, num_reads: int) -> ChecksumMismatch:
    """Build the error of an object whose bytes are not those of its checksum."""
    times = "once" if num_reads == 1 else f"{num_reads} times"
    return ChecksumMismatch(
        f"{uri} was read {times} and is damaged each time ({cause}): the object itself, or the "
        "network's equipment on the way to it. Compare its checksum from another machine; if the "
        "object is damaged, delete it or restore it."
    )


def _download_once(source: RangeSource, key: str, path: Path, *, uri: str) -> None:
    offset, version = _read_partial(path)
    with closing(read_stream(source, key, offset=offset, version=version, uri=uri)) as stream:
        _append(stream, path)


def _append(stream: Iterator[OpenBody | bytes], path: Path) -> None:
    partial = partial_path(path)
    body = next(stream)
    assert isinstance(body, OpenBody)
    missing = None if body.num_bytes is None else body.num_bytes - body.offset
    _check_disk_space(path, missing)
    with local_writes(path, missing):
        _note_version(path, body.version)
        with partial.open("r+b" if partial.exists() else "wb") as file:
            file.seek(body.offset)
            file.truncate()
            for chunk in stream:
                assert isinstance(chunk, bytes)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _version_path(path).unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Return where a download to ``path`` collects its bytes."""
    return path.with_name(path.name + ".partial")


def discard_partial(path: Path) -> None:
    """Delete the partial file of an earlier download to ``path``."""
    partial_path(path).unlink(missing_ok=True)
    _version_path(path).unlink(missing_ok=True)


def _version_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial.version")


def _read_partial(path: Path) -> tuple[int, str]:
    """Return how many bytes are there and of which version; (0, "") when none can be trusted."""
    try:
        note = json.loads(_version_path(path).read_text(encoding="utf-8"))
        version = note["version"]
        size = partial_path(path).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    # Without a version tag a change of the object stays unnoticed.
    return (size, version) if isinstance(version, str) and version else (0, "")


def _note_version(path: Path, version: str) -> None:
    note = _version_path(path)
    if version:
        note.write_text(json.dumps({"version": version}), encoding="utf-8")
    else:
        note.unlink(missing_ok=True)


def _check_disk_space(path: Path, missing: int | None) -> None:
    if missing is None:
        return
    free = shutil.disk_usage(path.parent).free
    if missing > free:
        raise disk_full(path, missing, "not enough room")


def _backoff_seconds(failures: int) -> float:
    """Return a wait with full jitter, so that many pods do not come back in step."""
    return random.uniform(0, min(_MAX_BACKOFF_SECONDS, 0.2 * 2**failures))  # noqa: S311

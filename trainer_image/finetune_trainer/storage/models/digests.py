"""Digests of the files of base models: recorded at download, compared before use.

Sizes do not show a bad block, so each process reads a model once in full.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.storage.checksums import hash_file
from finetune_trainer.storage.store import ObjectInfo

NUM_THREADS = 4
REPORTED_BYTES = 100_000_000
"""Smaller models are verified without a word."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_BLOB = re.compile(r"[0-9a-f]{40}")

ReportFunction = Callable[[str], None]
"""Receives messages for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDigest:
    """The expected digest of a file."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A file that differs; ``found`` describes its content."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path} (expected {self.expected}, found {self.found})"


_verified: set[tuple[str, int, int, str]] = set()
"""Path, size, change time and SHA-256 of files that this process has verified."""

_lock = threading.Lock()


def find_differences(
    folder: Path, files: Mapping[str, FileDigest], *, tell: ReportFunction
) -> list[Difference]:
    """Return the files that are missing or differ, in the order of ``files``.

    A file that matched before and has not changed is not read again. ``tell`` is called with the
    time that a large model took.
    """
    start = time.monotonic()
    with ThreadPoolExecutor(NUM_THREADS, "verify") as pool:
        checks = list(pool.map(lambda path: _check(folder, path, files[path]), files))
    num_bytes = sum(num_read for num_read, _ in checks)
    differences = [difference for _, difference in checks if difference]
    if num_bytes >= REPORTED_BYTES and not differences:
        seconds = time.monotonic() - start
        tell(
            f"verified {len(files)} files of the base model by sha256: {num_bytes / 1e9:.1f} GB in "
            f"{seconds:.1f} s"
        )
    return differences


def matches_listing(path: Path, file: ObjectInfo) -> bool:
    """Whether a local file has the digest of the store's listing; False if it has none.

    The Hub lists SHA-256 for large files and Git's object id for small ones.
    """
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    return matches_name(path, file.version)


def matches_name(path: Path, name: str) -> bool:
    """Whether a file's SHA-256 (64 hex digits) or Git object id (40) is ``name``."""
    if _SHA256.fullmatch(name):
        return hash_file(path)[1] == name
    if _GIT_BLOB.fullmatch(name):
        data = path.read_bytes()
        header = b"blob %d\0" % len(data)
        return hashlib.sha1(header + data, usedforsecurity=False).hexdigest() == name
    return False


class DownloadRecord:
    """The digests of the complete files in a folder that is being filled, for a restart."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name(f"{folder.name}.json")
        self._lock = threading.Lock()
        self._files: dict[str, FileDigest] = read_record(self._path) or {}

    @property
    def files(self) -> Mapping[str, FileDigest]:
        """The complete files."""
        return self._files

    def add(self, path: str, digest: FileDigest) -> None:
        """Record one more complete file."""
        with self._lock:
            self._files[path] = digest
            body = {"files": record_of(self._files)}
            temporary = self._path.with_name(f".{self._path.name}.new")
            temporary.write_text(json.dumps(body), encoding="utf-8")
            temporary.replace(self._path)

    def holds(self, folder: Path, path: str) -> bool:
        """Whether the file is complete and equals the record."""
        digest = self._files.get(path)
        return digest is not None and _difference(folder, path, digest) is None


def record_of(files: Mapping[str, FileDigest]) -> dict[str, dict[str, object]]:
    """Return the JSON form of digests by path."""
    return {
        path: {"bytes": digest.num_bytes, "sha256": digest.sha256}
        for path, digest in sorted(files.items())
    }


def read_record(path: Path) -> dict[str, FileDigest] | None:
    """Read ``files`` of a record; None where there is no record with digests."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {
            name: FileDigest(num_bytes=int(entry["bytes"]), sha256=str(entry["sha256"]))
            for name, entry in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _difference(folder: Path, path: str, digest: FileDigest) -> Difference | None:
    return _check(folder, path, digest)[1]


def _check(folder: Path, path: str, digest: FileDigest) -> tuple[int, Difference | None]:
    """Return the bytes read and how the file differs, if it does."""
    try:
        status = (folder / path).stat()
    except OSError:
        return 0, Difference(path=path, expected=f"{digest.num_bytes} bytes", found="no file")
    size = status.st_size
    if size != digest.num_bytes:
        expected = f"{digest.num_bytes} bytes"
        return 0, Difference(path=path, expected=expected, found=f"{size} bytes")
    entry = (str(folder / path), size, status.st_mtime_ns, digest.sha256)
    with _lock:
        if entry in _verified:
            return 0, None
    sha256 = hash_file(folder / path)[1]
    if sha256 == digest.sha256:
        with _lock:
            _verified.add(entry)
        return size, None
    return size, Difference(
        path=path, expected=f"sha256 {digest.sha256[:12]}...", found=f"sha256 {sha256[:12]}..."
    )

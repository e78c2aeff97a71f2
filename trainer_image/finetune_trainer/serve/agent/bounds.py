"""What a server reads of a version at most, checked before anything is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, cast

from finetune_trainer.storage import ChecksumMismatch, ManifestFile, ObjectStore
from finetune_trainer.storage.manifest import MAX_MANIFEST_BYTES
from finetune_trainer.storage.stream import READ_ATTEMPTS

SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".md"})
"""Files that a server loads. Other formats of weights may run code when they are read."""
_MIB = 1024 * 1024
MAX_FILE_BYTES = {"samples.jsonl": 64 * _MIB, "report.json": 16 * _MIB, "run.json": 16 * _MIB}
"""Files that are read whole into memory."""


class Refusal(Exception):  # noqa: N818 - a finding about a version
    """A version that must not be served.

    Attributes:
        reason: CamelCase cause.
        sha256: Digest of the manifest that was read; empty if none was.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.sha256 = ""


class _Bounded:
    """A store whose objects are read into memory only if they are small."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_bytes(self, key: str) -> bytes:
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return self._read(key)
            except ChecksumMismatch:
                continue
        return self._read(key)

    def _read(self, key: str) -> bytes:
        data = bytearray()
        for chunk in self._store.read_chunks(key):
            data += chunk
            if len(data) > MAX_MANIFEST_BYTES:
                raise Refusal("FilesDamaged", f"{key} is longer than {MAX_MANIFEST_BYTES} bytes")
        return bytes(data)


def bounded(store: ObjectStore) -> ObjectStore:
    """Return a store that raises ``Refusal`` where it would read an endless object into memory."""
    return cast(ObjectStore, _Bounded(store))


def check_files(
    files: Iterable[ManifestFile], *, max_bytes: int | None = None, is_loaded: bool = True
) -> None:
    """Check files of a manifest before they are downloaded.

    Args:
        files: Those to download.
        max_bytes: Room for them all; None if it is not known.
        is_loaded: The engine loads them.

    Raises:
        Refusal: ``FilesDamaged``: a file is too large, or of a kind that no server loads.
    """
    total = 0
    for file in files:
        path = PurePosixPath(file.path)
        if is_loaded and path.suffix not in SUFFIXES:
            raise Refusal(
                "FilesDamaged",
                f"{file.path} is no file that a server loads: only {', '.join(sorted(SUFFIXES))}",
            )
        bound = MAX_FILE_BYTES.get(path.name)
        if bound is not None and file.num_bytes > bound:
            raise Refusal(
                "FilesDamaged", f"{file.path} has {file.num_bytes} bytes, more than {bound}"
            )
        total += file.num_bytes
    if max_bytes is not None and total > max_bytes:
        raise Refusal(
            "FilesDamaged",
            f"the files have {total} bytes, and the server has room for {max_bytes}: let the "
            "administrator raise config.scratchSize",
        )

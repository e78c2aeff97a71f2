"""``manifest.json``: the files of a published folder and their checksums.

The manifest commits a folder: it is written last and once. Parsing is strict, so that no path leads
out of the folder it is fetched to.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage.store import check_key

MANIFEST_NAME = "manifest.json"

MAX_MANIFEST_BYTES = 32 * 1024 * 1024
"""Larger than any manifest of ours by orders of magnitude; protects readers of foreign buckets."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class ManifestFile:
    """One file of a folder.

    Attributes:
        path: Path below the folder.
        num_bytes: Size; ``bytes`` in JSON.
        sha256: Hex digest of the content.
        key: Where the content lies below the prefix if an unfinished attempt stored other content
            under ``path``; else empty.
    """

    path: str
    num_bytes: int
    sha256: str
    key: str = ""

    @property
    def object_key(self) -> str:
        """Key of the content, below the folder's prefix."""
        return self.key or self.path

    def stored_at(self, key: str) -> ManifestFile:
        """Return the entry of the same content under another key; empty for its path."""
        return replace(self, key=key)

    def to_json_object(self) -> dict[str, Any]:
        """Return the JSON form; ``key`` only when it says something."""
        body: dict[str, Any] = {"path": self.path, "bytes": self.num_bytes, "sha256": self.sha256}
        return body | {"key": self.key} if self.key else body


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a folder sorted by path, their writer and its run, and their inputs.

    ``inputs`` maps names to digests or URIs.
    """

    files: tuple[ManifestFile, ...]
    created_by: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the files, without ``key``."""
        content = [
            {"path": file.path, "bytes": file.num_bytes, "sha256": file.sha256}
            for file in self.files
        ]
        return hashlib.sha256(canonical_json(content)).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Sum of the sizes."""
        return sum(file.num_bytes for file in self.files)

    def file(self, path: str) -> ManifestFile | None:
        """Return the entry of a path, or None."""
        return next((file for file in self.files if file.path == path), None)

    def has_same_files(self, other: Manifest) -> bool:
        """Whether both describe the same content under the same paths."""
        return self.digest == other.digest

    def to_bytes(self) -> bytes:
        """Return the text of ``manifest.json``; the same manifest always gives the same bytes."""
        body = {
            "files": [file.to_json_object() for file in self.files],
            "createdBy": self.created_by,
            "inputs": dict(self.inputs),
        }
        return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def make_manifest(
    files: Iterable[ManifestFile], *, created_by: str, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Build a manifest with its files in order."""
    return Manifest(files=tuple(sorted(files)), created_by=created_by, inputs=dict(inputs or {}))


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Read ``manifest.json``; ``where`` is its address for messages.

    Raises:
        StorageError: ``ManifestInvalid``; says what is wrong.
    """

    def invalid(problem: str) -> StorageError:
        return StorageError(
            "ManifestInvalid",
            f"{where} is not a manifest: {problem}. The folder was tampered with or written by "
            "something else; publish it again under a new prefix.",
        )

    if len(data) > MAX_MANIFEST_BYTES:
        raise invalid(f"{len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise invalid(f"not JSON ({error})") from error
    if not isinstance(body, dict) or not isinstance(body.get("files"), list):
        raise invalid("no list 'files' at the top")
    inputs = body.get("inputs", {})
    if not isinstance(inputs, dict) or not all(isinstance(v, str) for v in inputs.values()):
        raise invalid("'inputs' is not an object of strings")
    created_by = body.get("createdBy", "")
    if not isinstance(created_by, str):
        raise invalid("'createdBy' is not a string")
    try:
        files = [_parse_file(entry) for entry in body["files"]]
    except ValueError as error:
        raise invalid(str(error)) from error
    for names in ([file.path for file in files], [file.object_key for file in files]):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise invalid(f"{twice!r} occurs twice")
    return make_manifest(files, created_by=created_by, inputs=inputs)


def _parse_file(entry: object) -> ManifestFile:
    """Check one entry of ``files``; ValueError says what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError(f"an entry of 'files' is {type(entry).__name__}, not an object")
    path, num_bytes, sha256 = entry.get("path"), entry.get("bytes"), entry.get("sha256")
    key = entry.get("key", "")
    if not isinstance(path, str) or not isinstance(key, str):
        raise ValueError("an entry of 'files' has no string 'path'")
    try:
        check_key(path)
        if key:
            check_key(key)
    except UserError as error:
        raise ValueError(error.message) from error
    if path == MANIFEST_NAME:
        raise ValueError(f"it lists itself ({MANIFEST_NAME})")
    if not isinstance(num_bytes, int) or isinstance(num_bytes, bool) or num_bytes < 0:
        raise ValueError(f"'bytes' of {path!r} is {num_bytes!r}, not a size")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"'sha256' of {path!r} is {sha256!r}, not 64 hex digits")
    return ManifestFile(path=path, num_bytes=num_bytes, sha256=sha256, key=key)


def canonical_json(value: object) -> bytes:
    """Serialise so that equal values give equal bytes: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

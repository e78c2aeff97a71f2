"""Size and SHA-256 of files and of stored objects."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetune_trainer.storage.errors import ChecksumMismatch
from finetune_trainer.storage.store import ObjectStore


def hash_file(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 (hex) of a local file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def hash_object(store: ObjectStore, key: str) -> tuple[int, str]:
    """Return size and SHA-256 of a stored object; of one that arrives damaged, no digest."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        for chunk in store.read_chunks(key):
            digest.update(chunk)
            num_bytes += len(chunk)
    except ChecksumMismatch:
        return num_bytes, "unknown (it arrived damaged)"
    return num_bytes, digest.hexdigest()

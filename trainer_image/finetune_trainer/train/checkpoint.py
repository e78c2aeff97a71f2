"""Durable checkpoints: folders with a manifest, written last; resume from the newest complete one.

A checkpoint of several ranks is written by all nodes: each uploads what it has on its own disk, and
rank 0 writes the manifest after everyone is done. Whatever has no manifest does not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.errors import StorageError
from finetune_trainer.storage import ObjectStore, fetch_folder

MANIFEST = "manifest.json"
_STEP = re.compile(r"^step-(\d+)/manifest\.json$")
_UNPUBLISHED = {"training_args.bin", "README.md", MANIFEST}
"""training_args.bin is a pickle: code for whoever loads it. The card is written at the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a checkpoint: path below the checkpoint, size and digest."""

    path: str
    num_bytes: int
    sha256: str


def complete_steps(store: ObjectStore, prefix: str) -> list[int]:
    """List the steps below ``prefix`` that have a manifest, oldest first."""
    steps = []
    for item in store.list(prefix + "/"):
        match = _STEP.match(item.key.removeprefix(prefix + "/"))
        if match:
            steps.append(int(match.group(1)))
    return sorted(steps)


def fetch_newest(store: ObjectStore, prefix: str, folder: Path) -> tuple[int, Path] | None:
    """Fetch the newest complete checkpoint whose files match their checksums.

    A damaged one is passed over in favour of an older one: losing steps is better than failing.

    Args:
        store: The run's storage.
        prefix: Key prefix of the run's checkpoints.
        folder: Local parent folder; the checkpoint arrives in ``checkpoint-<step>`` below it, the
            name transformers expects.

    Returns:
        Step and local folder, or None when there is nothing to resume from.
    """
    for step in reversed(complete_steps(store, prefix)):
        target = folder / f"checkpoint-{step}"
        try:
            fetch_folder(store, f"{prefix}/step-{step}", target)
        except StorageError as error:
            if error.reason not in ("ChecksumMismatch", "IncompleteFolder", "ObjectNotFound"):
                raise
            shutil.rmtree(target, ignore_errors=True)
            continue
        (target / MANIFEST).unlink(missing_ok=True)
        return step, target
    return None


def upload_files(
    store: ObjectStore, prefix: str, folder: Path, names: list[str]
) -> list[FileEntry]:
    """Upload the named files of a checkpoint folder and return their entries."""
    entries = []
    for name in names:
        path = folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        store.upload_file(path, f"{prefix}/{name}")
        entries.append(FileEntry(path=name, num_bytes=path.stat().st_size, sha256=digest))
    return entries


def files_of(folder: Path) -> list[str]:
    """List the files of a local checkpoint that are to be published, in order."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _UNPUBLISHED
    )


def write_manifest(
    store: ObjectStore, prefix: str, entries: list[FileEntry], *, step: int, world_size: int
) -> None:
    """Commit a checkpoint: from now on it exists."""
    unique = {entry.path: entry for entry in entries}
    body = {
        "files": [
            {"path": e.path, "bytes": e.num_bytes, "sha256": e.sha256}
            for e in sorted(unique.values(), key=lambda e: e.path)
        ],
        "createdBy": "finetune_trainer train",
        "inputs": {"step": str(step), "worldSize": str(world_size)},
    }
    store.write_bytes(f"{prefix}/{MANIFEST}", json.dumps(body, sort_keys=True, indent=1).encode())


def drop_old(store: ObjectStore, prefix: str, *, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, each manifest first."""
    for step in complete_steps(store, prefix)[:-keep]:
        delete_prefix(store, f"{prefix}/step-{step}")


def delete_prefix(store: ObjectStore, prefix: str) -> None:
    """Delete everything below ``prefix``; the manifest goes first, so that no torso looks whole."""
    with contextlib.suppress(StorageError):
        store.delete(f"{prefix}/{MANIFEST}")
    for item in list(store.list(prefix + "/")):
        store.delete(item.key)

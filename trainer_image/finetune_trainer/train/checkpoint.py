"""Durable checkpoints: folders with a manifest, written last.

Each node stores the files on its own disk; rank 0 commits the manifest when all are done. A folder
without a manifest is ignored. Invariants: checkpoints newer than the resumed step are removed
before training; old checkpoints are deleted only after a newer one is committed; states are
safetensors and JSON, so no checkpoint can carry code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    ManifestFile,
    ObjectStore,
    commit_manifest,
    fetch_folder,
    make_manifest,
    store_files,
)
from finetune_trainer.storage.store import OnBytes

_STEP = re.compile(r"step-(\d+)/(.*)")
_STATE_SUFFIXES = (".pt", ".pth", ".bin")
"""The training libraries' names of state files; ours hold safetensors under these names."""

_STORED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
_STORED_NAMES = ("latest",)  # DeepSpeed's note of its newest tag
_NOT_STORED = frozenset(
    {
        MANIFEST_NAME,
        "training_args.bin",  # a pickle that nobody reads back
        # The base model's own tokenizer, up to 35 MB: a run has it from there.
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    }
)
_DAMAGE = (
    "ChecksumMismatch",
    "IncompleteFolder",
    "ManifestInvalid",
    "ObjectNotFound",
    "UnsafeCheckpoint",
    "WrongCheckpoint",
)
"""Reasons for which an older checkpoint is taken; every other failure is raised."""

MAX_HEADER_BYTES = 100_000_000
"""Longest header of a safetensors file (format specification)."""

OnDamaged = Callable[[int, StorageError], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalCheckpoint:
    """A verified checkpoint on the local disk, in ``checkpoint-<step>``."""

    step: int
    folder: Path


def complete_steps(store: ObjectStore, prefix: str) -> list[int]:
    """List the steps below ``prefix`` that have a manifest, oldest first."""
    return sorted(step for step, names in _steps(store, prefix).items() if MANIFEST_NAME in names)


def fetch_newest(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    below: int | None = None,
    on_damaged: OnDamaged | None = None,
) -> LocalCheckpoint | None:
    """Fetch the newest complete checkpoint whose files match their checksums.

    A damaged one is skipped: losing steps is better than failing.

    Args:
        store: The run's storage.
        prefix: Key prefix of the run's checkpoints.
        folder: Local parent folder of ``checkpoint-<step>``.
        below: Only steps before this one; None for all.
        on_damaged: Called for each skipped one, with the fault.

    Returns:
        The checkpoint, or None when there is nothing to resume from.
    """
    for step in reversed(complete_steps(store, prefix)):
        if below is not None and step >= below:
            continue
        try:
            return fetch_step(store, prefix, step, folder)
        except StorageError as error:
            if error.reason not in _DAMAGE:
                raise
            if on_damaged:
                on_damaged(step, error)
    return None


def is_damage(error: StorageError) -> bool:
    """Whether the failure is the checkpoint's own, so that an older one may do."""
    return error.reason in _DAMAGE


def fetch_step(store: ObjectStore, prefix: str, step: int, folder: Path) -> LocalCheckpoint:
    """Fetch and verify the checkpoint of one step; a damaged one is removed from the disk.

    Raises:
        StorageError: It is damaged, may carry code, or the store failed.
    """
    target = folder / f"checkpoint-{step}"
    try:
        manifest = fetch_folder(store, f"{prefix}/step-{step}", target)
        _check_checkpoint(manifest, step, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    (target / MANIFEST_NAME).unlink(missing_ok=True)
    for file in manifest.files:
        name = _local_name(file.path)
        if name != file.path:
            (target / file.path).rename(target / name)
    return LocalCheckpoint(step=step, folder=target)


def upload_checkpoint(
    store: ObjectStore, prefix: str, folder: Path, *, on_bytes: OnBytes | None = None
) -> list[ManifestFile]:
    """Store this node's files of a checkpoint; return their entries for the manifest.

    ``prefix`` is the checkpoint's key prefix, ``.../step-<n>``.
    """
    return store_files(store, prefix, files_of(folder), on_bytes=on_bytes)


def files_of(folder: Path) -> dict[str, Path]:
    """Map the path in storage of every stored file to the local file.

    ``optimizer.pt`` becomes ``optimizer.pt.safetensors``. Tokenizer, programs, cards and library
    settings are left out.

    Raises:
        InternalError: A state could only be read back with a pickle.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name in _NOT_STORED:
            continue
        if path.suffix == ".distcp" or path.name == ".metadata":
            raise InternalError(
                "UnknownState",
                f"{name} is a state of torch.distributed.checkpoint, whose index is a pickle; "
                "checkpoints hold none",
            )
        if path.suffix in _STATE_SUFFIXES:
            files[f"{name}.safetensors"] = path
        elif _may_be_stored(name):
            files[name] = path
    return files


def commit_checkpoint(
    store: ObjectStore,
    prefix: str,
    files: Iterable[ManifestFile],
    *,
    step: int,
    inputs: Mapping[str, str],
) -> Manifest:
    """Commit a checkpoint.

    Args:
        store: The run's storage.
        prefix: Key prefix of this checkpoint.
        files: Entries of all nodes; duplicates are allowed.
        step: Its optimiser step.
        inputs: ``worldSize``, ``revision`` and so on.

    Raises:
        OtherWriterWon: Another process committed other files for this step.
    """
    unique = {file.path: file for file in files}
    manifest = make_manifest(
        unique.values(), created_by="finetune_trainer train", inputs={**inputs, "step": str(step)}
    )
    return commit_manifest(store, prefix, manifest)


def drop_newer(store: ObjectStore, prefix: str, *, than: int) -> None:
    """Delete everything beyond the step that the run resumes from."""
    for step in sorted(_steps(store, prefix), reverse=True):
        if step > than:
            delete_prefix(store, f"{prefix}/step-{step}")


def drop_old(store: ObjectStore, prefix: str, *, newest: int, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints up to ``newest``, the one just committed."""
    found = _steps(store, prefix)
    complete = [step for step, names in found.items() if MANIFEST_NAME in names]
    for step in steps_to_drop(found, complete, newest=newest, keep=keep):
        delete_prefix(store, f"{prefix}/step-{step}")


def steps_to_drop(
    present: Iterable[int], complete: Iterable[int], *, newest: int, keep: int
) -> list[int]:
    """Return the steps to delete after ``newest`` is committed, oldest first.

    ``complete`` are steps with a manifest. ``keep`` of them, at least 1, stay. Steps later than
    ``newest`` belong to another writer and stay.
    """
    kept = sorted(step for step in complete if step <= newest)[-keep:]
    return sorted(step for step in present if step <= newest and step not in kept)


def drop_all(store: ObjectStore, prefix: str) -> None:
    """Delete every checkpoint and all files beside them."""
    for item in list(store.list(prefix + "/")):
        if item.key.endswith(f"/{MANIFEST_NAME}"):
            store.delete(item.key)
    delete_prefix(store, prefix)


def delete_prefix(store: ObjectStore, prefix: str) -> None:
    """Delete everything below ``prefix``, the manifest first.

    Raises:
        StorageError: The store failed. If the manifest remains, nothing was deleted.
    """
    store.delete(f"{prefix}/{MANIFEST_NAME}")
    for item in list(store.list(prefix + "/")):
        store.delete(item.key)


def _steps(store: ObjectStore, prefix: str) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for item in store.list(prefix + "/"):
        match = _STEP.fullmatch(item.key.removeprefix(prefix + "/"))
        if match:
            found.setdefault(int(match.group(1)), set()).add(match.group(2))
    return found


def _local_name(path: str) -> str:
    """Return the file name that the training libraries expect; inverse of :func:`files_of`."""
    stem = path.removesuffix(".safetensors")
    return stem if PurePosixPath(stem).suffix in _STATE_SUFFIXES else path


def _may_be_stored(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix in _STORED_SUFFIXES or name.name in _STORED_NAMES


def _check_checkpoint(manifest: Manifest, step: int, folder: Path) -> None:
    """Refuse a checkpoint of another step, an empty one, and one that could carry code.

    Raises:
        StorageError: ``WrongCheckpoint`` or ``UnsafeCheckpoint``.
    """
    if not manifest.files or manifest.inputs.get("step") != str(step):
        raise StorageError(
            "WrongCheckpoint",
            f"the manifest of step {step} names {len(manifest.files)} files of step "
            f"{manifest.inputs.get('step', 'unknown')}",
        )
    check_files(folder, [file.path for file in manifest.files])


def check_files(folder: Path, paths: Iterable[str]) -> None:
    """Check that files from storage have the expected format and cannot carry code.

    Raises:
        StorageError: ``UnsafeCheckpoint``; names the file.
    """
    for path in paths:
        if not _may_be_stored(path):
            problem = "may hold code (only safetensors, JSON and text are read)"
        elif path.endswith(".safetensors") and not _is_safetensors(folder / path):
            problem = "is not a safetensors file"
        elif path.endswith(".json") and not _is_json(folder / path):
            problem = "is not JSON"
        else:
            continue
        raise StorageError("UnsafeCheckpoint", f"{path!r} {problem}; it was not read")


def _is_safetensors(path: Path) -> bool:
    """Whether the file has the header of the safetensors format, and the bytes it speaks of."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            return False
    return max(ends, default=0) == size - 8 - length


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True

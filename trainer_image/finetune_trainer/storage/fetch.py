"""Fetches whole folders from a store and verifies every file against the manifest."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.storage.checksums import hash_file, hash_object
from finetune_trainer.storage.errors import ChecksumMismatch, ObjectNotFound, local_writes
from finetune_trainer.storage.lookup import read_manifest
from finetune_trainer.storage.manifest import MANIFEST_NAME, Manifest, ManifestFile, make_manifest
from finetune_trainer.storage.parallel import in_parallel
from finetune_trainer.storage.store import ObjectStore, join_key, join_uri
from finetune_trainer.storage.stream import READ_ATTEMPTS, discard_partial


@dataclass(frozen=True, kw_only=True)
class VerifiedManifest(Manifest):
    """A manifest whose files were all read and match.

    ``extra_files`` are keys below the prefix that the manifest does not name. They are not part of
    the folder.
    """

    extra_files: tuple[str, ...] = ()


def fetch_folder(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    only: Container[str] | None = None,
    keys_from: str | None = None,
) -> Manifest:
    """Bring a published folder to a local one; download only the files that differ.

    Args:
        store: Where from.
        prefix: Key of the folder in the store.
        folder: Local target, created if need be. Other files in it are left alone.
        only: Paths wanted; None for all.
        keys_from: Prefix of the manifest's keys when it is not ``prefix``.

    Returns:
        The manifest. A complete folder gets a copy of it as its last file.

    Raises:
        IncompleteFolder: There is no manifest.
        ChecksumMismatch: A stored file differs from the manifest; it is not kept.
        StorageError: The store or the local disk failed.
    """
    manifest = read_manifest(store, prefix)
    origin = prefix if keys_from is None else keys_from
    local_manifest = folder / MANIFEST_NAME
    with local_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
        local_manifest.unlink(missing_ok=True)  # not whole until the end

    def get(file: ManifestFile) -> None:
        _fetch_file(store, origin, file, folder / file.path)

    wanted = [file for file in manifest.files if only is None or file.path in only]
    in_parallel(get, wanted)
    if len(wanted) < len(manifest.files):
        return manifest
    # In a local folder every file lies under its own path.
    local = make_manifest(
        (file.stored_at("") for file in manifest.files),
        created_by=manifest.created_by,
        inputs=manifest.inputs,
    )
    with local_writes(local_manifest):
        temporary = local_manifest.with_name(f".{MANIFEST_NAME}.{os.getpid()}")
        temporary.write_bytes(local.to_bytes())
        temporary.replace(local_manifest)
    return manifest


def verify_folder(
    store: ObjectStore, prefix: str = "", *, keys_from: str | None = None
) -> VerifiedManifest:
    """Read every file of a published folder and compare it with the manifest.

    An empty ``prefix`` is the store's root; ``keys_from`` is as in :func:`fetch_folder`.

    Raises:
        IncompleteFolder: There is no manifest.
        ChecksumMismatch: Names every file that is missing or differs.
    """
    manifest = read_manifest(store, prefix)
    start = f"{join_key(prefix)}/" if prefix.strip("/") else ""
    origin = prefix if keys_from is None else keys_from

    def check(file: ManifestFile) -> str | None:
        return _find_difference(store, join_key(origin, file.object_key), file)

    problems = [problem for problem in in_parallel(check, manifest.files) if problem]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ChecksumMismatch(
            f"{join_uri(store.uri, prefix)}: {len(problems)} of {len(manifest.files)} files are "
            f"not what the manifest says: {'; '.join(problems[:5])}{more}. Do not use this folder."
        )
    known = {file.object_key for file in manifest.files} | {MANIFEST_NAME}
    extra = tuple(key for info in store.list(start) if (key := info.key[len(start) :]) not in known)
    return VerifiedManifest(
        files=manifest.files,
        created_by=manifest.created_by,
        inputs=manifest.inputs,
        extra_files=extra,
    )


def _fetch_file(store: ObjectStore, prefix: str, file: ManifestFile, path: Path) -> None:
    """Download one file unless it is there, and check it; download again if it differs."""
    if path.is_file() and hash_file(path) == (file.num_bytes, file.sha256):
        return
    key = join_key(prefix, file.object_key)
    got = (0, "")
    for _ in range(READ_ATTEMPTS):
        _download(store, key, path)
        got = hash_file(path)
        if got == (file.num_bytes, file.sha256):
            return
    path.unlink(missing_ok=True)
    discard_partial(path)
    raise ChecksumMismatch(
        f"{join_uri(store.uri, key)} is not what the manifest says: expected "
        f"{file.num_bytes} bytes, sha256 {file.sha256}; got {got[0]} bytes, sha256 {got[1]}, also "
        f"when read {READ_ATTEMPTS} times. It was changed after it was published. Do not use this "
        "folder."
    )


def _download(store: ObjectStore, key: str, path: Path) -> None:
    try:
        store.download_file(key, path)
    except ObjectNotFound as error:
        raise ChecksumMismatch(
            f"{join_uri(store.uri, key)} is missing although the manifest names it. It was "
            "deleted after it was published. Do not use this folder."
        ) from error


def _find_difference(store: ObjectStore, key: str, file: ManifestFile) -> str | None:
    """Compare one stored file with its entry, if need be several times; None when equal."""
    num_bytes, sha256 = 0, ""
    for _ in range(READ_ATTEMPTS):
        try:
            num_bytes, sha256 = hash_object(store, key)
        except ObjectNotFound:
            return f"{file.path} is missing"
        if sha256 == file.sha256:
            return None
    return (
        f"{file.path} expected {file.num_bytes} bytes, sha256 {file.sha256}, "
        f"got {num_bytes} bytes, sha256 {sha256}"
    )

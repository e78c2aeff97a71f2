"""Stores whole folders: each is published once and never overwritten.

Files are stored first and ``manifest.json`` last, with a conditional write. If another attempt
stored other content under a path, the file goes to a key named by its content, and the manifest
says so. :mod:`finetune_trainer.storage.fetch` reads folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.storage.checksums import hash_file, hash_object
from finetune_trainer.storage.errors import AlreadyExists, OtherWriterWon
from finetune_trainer.storage.lookup import find_manifest, read_manifest
from finetune_trainer.storage.manifest import MANIFEST_NAME, Manifest, ManifestFile, make_manifest
from finetune_trainer.storage.parallel import in_parallel
from finetune_trainer.storage.store import ObjectStore, OnBytes, join_key, join_uri


def publish_folder(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    created_by: str,
    inputs: Mapping[str, str] | None = None,
    on_bytes: OnBytes | None = None,
) -> Manifest:
    """Store a local folder under a prefix and commit it with a manifest.

    Publishing the same files again is harmless and returns the existing manifest.

    Args:
        store: Where to.
        prefix: Key of the folder in the store.
        folder: Local folder; a ``manifest.json`` at its top is left out.
        created_by: Name and version of the writer, and its run.
        inputs: What the files were made from.
        on_bytes: Progress, also within a large file.

    Raises:
        OtherWriterWon: A different folder is published there.
        StorageError: The store failed; nothing is committed and a second call resumes.
    """
    wanted = describe_folder(folder, created_by=created_by, inputs=inputs)
    address = join_uri(store.uri, join_key(prefix, MANIFEST_NAME))
    winner = find_manifest(store, prefix)
    if winner is not None:
        return _accept_winner(winner, wanted, address)

    def put(file: ManifestFile) -> ManifestFile:
        return _store_file(store, prefix, folder / file.path, file, on_bytes)

    stored = in_parallel(put, wanted.files)
    return commit_manifest(
        store, prefix, make_manifest(stored, created_by=created_by, inputs=inputs)
    )


def store_files(
    store: ObjectStore, prefix: str, files: Mapping[str, Path], *, on_bytes: OnBytes | None = None
) -> list[ManifestFile]:
    """Store local files one by one under a prefix, without a commit; return their entries.

    Several writers may fill one folder; one of them calls :func:`commit_manifest`. ``files`` maps
    paths below the folder to local files.
    """

    def put(path: str) -> ManifestFile:
        num_bytes, sha256 = hash_file(files[path])
        entry = ManifestFile(path=path, num_bytes=num_bytes, sha256=sha256)
        return _store_file(store, prefix, files[path], entry, on_bytes)

    return [put(path) for path in sorted(files)]


def commit_manifest(store: ObjectStore, prefix: str, manifest: Manifest) -> Manifest:
    """Write ``manifest.json`` once, after its files; return the manifest that is there.

    Raises:
        OtherWriterWon: Another writer committed other files there.
    """
    key = join_key(prefix, MANIFEST_NAME)
    with suppress(AlreadyExists):
        store.write_bytes(key, manifest.to_bytes(), if_absent=True)
    # Always read back, to find the winner and servers that ignore the condition.
    return _accept_winner(read_manifest(store, prefix), manifest, join_uri(store.uri, key))


def describe_folder(
    folder: Path, *, created_by: str, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Hash the files of a local folder.

    Raises:
        InternalError: The folder is missing or holds something that is not a file.
    """
    if not folder.is_dir():
        raise InternalError("FolderMissing", f"Cannot publish {folder}: it is not a folder.")
    paths = sorted(_folder_files(folder))

    def describe(path: str) -> ManifestFile:
        num_bytes, sha256 = hash_file(folder / path)
        return ManifestFile(path=path, num_bytes=num_bytes, sha256=sha256)

    return make_manifest(in_parallel(describe, paths), created_by=created_by, inputs=inputs)


def _folder_files(folder: Path) -> Iterable[str]:
    for top, folders, names in os.walk(folder):
        for name in folders + names:
            path = Path(top, name)
            key = path.relative_to(folder).as_posix()
            if path.is_file():
                if key != MANIFEST_NAME:
                    yield key
            elif name in names or path.is_symlink():
                raise InternalError(
                    "UnsupportedFile",
                    f"Cannot publish {path}: it is not a regular file (a link to a folder, a "
                    "dangling link, a socket or a device).",
                )


def _store_file(
    store: ObjectStore, prefix: str, path: Path, file: ManifestFile, on_bytes: OnBytes | None
) -> ManifestFile:
    """Store one file without replacing another content; return its key."""
    alternative = f"{file.path}.{file.sha256[:16]}"
    for key in ("", alternative):
        target = join_key(prefix, key or file.path)
        if not store.exists(target):  # spares the upload; the condition below decides
            try:
                store.upload_file(path, target, if_absent=True, on_bytes=on_bytes)
            except AlreadyExists:
                pass
            else:
                return file.stored_at(key)
        if hash_object(store, target) == (file.num_bytes, file.sha256):
            return file.stored_at(key)
    raise StorageError(
        "StoreConflict",
        f"{join_uri(store.uri, join_key(prefix, alternative))} holds something else than the "
        "content its name stands for. It was changed after it was written; delete this one file "
        "and run again.",
    )


def _accept_winner(winner: Manifest, wanted: Manifest, address: str) -> Manifest:
    if winner.has_same_files(wanted):
        return winner
    ours = {file.path: file.sha256 for file in wanted.files}
    theirs = {file.path: file.sha256 for file in winner.files}
    different = sorted(
        path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)
    )
    raise OtherWriterWon(
        f"{address} was published by {winner.created_by or 'another writer'} with other content "
        f"({len(different)} files differ, first {different[0]!r}). No published folder is "
        "overwritten: read it, or publish under another prefix."
    )

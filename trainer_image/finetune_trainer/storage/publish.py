"""Whole folders in and out of a store: published once, fetched and verified by checksum.

Invariants:
    * Files are stored first and ``manifest.json`` last, with a write that has one winner.
    * No stored file is ever overwritten. Where an attempt that never finished (or a rival at this
      very moment) has stored other content under a path, ours goes to a key named by its content,
      and the manifest says so. So nobody can damage the folder of the writer that wins.
    * A reader trusts nothing without a manifest and checks every byte against it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.storage.errors import (
    AlreadyExists,
    ChecksumMismatch,
    IncompleteFolder,
    ObjectNotFound,
    OtherWriterWon,
    local_writes,
)
from finetune_trainer.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestFile,
    make_manifest,
    parse_manifest,
)
from finetune_trainer.storage.store import ObjectStore, OnBytes, join_key, join_uri
from finetune_trainer.storage.stream import READ_ATTEMPTS, discard_partial

_NUM_THREADS = 4
_NUM_NAMES_SHOWN = 5
_NUM_LISTED = 10_000

_OWN_FOLDER = re.compile(
    r"/(datasets/[0-9a-f]{64}"
    r"|runs/[^/]+/[^/]+/[^/]+/(adapter|merged|evaluation|checkpoints/step-\d+)"
    r"|versions/[^/]+/[^/]+/\d+)$"
)
"""Addresses that only this program writes; of any other folder nobody may be told to delete it."""
"""Objects looked at to say what lies under a URI; a bucket may hold millions."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

OnFile = Callable[[str, int], None]
"""Called with path and size after each file, from several threads."""


@dataclass(frozen=True, kw_only=True)
class VerifiedManifest(Manifest):
    """A manifest whose every file was read and found right.

    Attributes:
        extra_files: Keys below the prefix that the manifest does not name: left by an attempt that
            never finished, or put there later. They are not part of the folder.
    """

    extra_files: tuple[str, ...] = ()


def publish_folder(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    created_by: str,
    inputs: Mapping[str, str] | None = None,
    on_file: OnFile | None = None,
    on_bytes: OnBytes | None = None,
) -> Manifest:
    """Store a local folder under a prefix and commit it with a manifest.

    Publishing the same files again, also after a crash or beside another writer, is harmless and
    returns the manifest that is there.

    Args:
        store: Where to.
        prefix: Key of the folder in the store.
        folder: Local folder; a ``manifest.json`` at its top is left out.
        created_by: Name and version of the writer, and its run.
        inputs: What the files were made from.
        on_file: Progress by file.
        on_bytes: Progress, also within a large file.

    Returns:
        The committed manifest.

    Raises:
        OtherWriterWon: A different folder is published there.
        StorageError: The store failed; nothing is committed and a second call goes on.
    """
    wanted = describe_folder(folder, created_by=created_by, inputs=inputs)
    address = join_uri(store.uri, join_key(prefix, MANIFEST_NAME))
    winner = find_manifest(store, prefix)
    if winner is not None:
        return _accept_winner(winner, wanted, address)

    def put(file: ManifestFile) -> ManifestFile:
        stored = _store_file(store, prefix, folder / file.path, file, on_bytes)
        if on_file:
            on_file(file.path, file.num_bytes)
        return stored

    stored = _in_parallel(put, wanted.files)
    return commit_manifest(
        store, prefix, make_manifest(stored, created_by=created_by, inputs=inputs)
    )


def store_files(
    store: ObjectStore,
    prefix: str,
    files: Mapping[str, Path],
    *,
    num_threads: int = _NUM_THREADS,
    on_bytes: OnBytes | None = None,
) -> list[ManifestFile]:
    """Store local files under a prefix without committing them.

    For a folder that several writers fill: each stores its part, one of them calls
    :func:`commit_manifest` with the entries of all.

    Args:
        store: Where to.
        prefix: Key of the folder in the store.
        files: Path below the folder to the local file.
        num_threads: Files stored at once.
        on_bytes: Progress, also within a large file.

    Returns:
        The entries, for the manifest.
    """

    def put(path: str) -> ManifestFile:
        num_bytes, sha256 = hash_file(files[path])
        entry = ManifestFile(path=path, num_bytes=num_bytes, sha256=sha256)
        return _store_file(store, prefix, files[path], entry, on_bytes)

    return _in_parallel(put, sorted(files), num_threads=num_threads)


def commit_manifest(store: ObjectStore, prefix: str, manifest: Manifest) -> Manifest:
    """Write ``manifest.json`` once, after its files: from now on the folder exists.

    Returns:
        The manifest that is there, with the same files as this one.

    Raises:
        OtherWriterWon: Another writer committed other files there.
    """
    key = join_key(prefix, MANIFEST_NAME)
    with suppress(AlreadyExists):
        store.write_bytes(key, manifest.to_bytes(), if_absent=True)
    # Read back in every case: it tells the winner, and a server that ignores the condition (there
    # are such) shows itself here instead of at the reader.
    return _accept_winner(read_manifest(store, prefix), manifest, join_uri(store.uri, key))


def fetch_folder(
    store: ObjectStore,
    prefix: str,
    folder: Path,
    *,
    only: Container[str] | None = None,
    keys_from: str | None = None,
    on_file: OnFile | None = None,
) -> Manifest:
    """Bring a published folder to a local one; only what differs is downloaded.

    Args:
        store: Where from.
        prefix: Key of the folder in the store.
        folder: Local target, created if need be. Other files in it are left alone.
        only: Paths wanted; None for all.
        keys_from: What the manifest's keys count from when that is not ``prefix``: a version
            points at files elsewhere, from the store's root.
        on_file: Progress.

    Returns:
        The manifest. Unless the folder holds only a part, a copy of the manifest is the last thing
        written to it.

    Raises:
        IncompleteFolder: There is no manifest.
        ChecksumMismatch: A stored file is not what the manifest says; it is not kept.
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
        if on_file:
            on_file(file.path, file.num_bytes)

    wanted = [file for file in manifest.files if only is None or file.path in only]
    _in_parallel(get, wanted)
    if len(wanted) < len(manifest.files):
        return manifest
    # In a local folder every file lies under its own path.
    local = make_manifest(
        (_placed(file, "") for file in manifest.files),
        created_by=manifest.created_by,
        inputs=manifest.inputs,
    )
    with local_writes(local_manifest):
        temporary = local_manifest.with_name(f".{MANIFEST_NAME}.{os.getpid()}")
        temporary.write_bytes(local.to_bytes())
        temporary.replace(local_manifest)
    return manifest


def verify_folder(
    store: ObjectStore,
    prefix: str = "",
    *,
    keys_from: str | None = None,
    on_file: OnFile | None = None,
) -> VerifiedManifest:
    """Read every file of a published folder and compare it with the manifest.

    Args:
        store: Where.
        prefix: Key of the folder in the store; empty for the store's root.
        keys_from: As in :func:`fetch_folder`.
        on_file: Progress.

    Returns:
        The manifest, with the files that are there but not in it.

    Raises:
        IncompleteFolder: There is no manifest.
        ChecksumMismatch: Names every file that is missing or differs.
    """
    manifest = read_manifest(store, prefix)
    start = f"{join_key(prefix)}/" if prefix.strip("/") else ""
    origin = prefix if keys_from is None else keys_from

    def check(file: ManifestFile) -> str | None:
        problem = _find_difference(store, join_key(origin, file.object_key), file)
        if on_file:
            on_file(file.path, file.num_bytes)
        return problem

    problems = [problem for problem in _in_parallel(check, manifest.files) if problem]
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


def find_manifest(store: ObjectStore, prefix: str) -> Manifest | None:
    """Return the manifest of a folder, or None when it is not published.

    One that cannot be parsed is read again: it may have arrived damaged.
    """
    key = join_key(prefix, MANIFEST_NAME)
    for attempt in range(READ_ATTEMPTS):
        try:
            return parse_manifest(store.read_bytes(key), where=join_uri(store.uri, key))
        except ObjectNotFound:
            return None
        except StorageError as error:
            if error.reason != "ManifestInvalid" or attempt + 1 == READ_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def read_manifest(store: ObjectStore, prefix: str) -> Manifest:
    """Return the manifest of a folder.

    Raises:
        IncompleteFolder: There is none; names the folder and what is in it.
    """
    manifest = find_manifest(store, prefix)
    if manifest is not None:
        return manifest
    raise IncompleteFolder(_explain_unpublished(store, prefix))


def _explain_unpublished(store: ObjectStore, prefix: str) -> str:
    """Say what lies where no manifest does; deleting is advised only where nothing can be lost."""
    address = join_uri(store.uri, prefix.strip("/"))
    start = f"{join_key(prefix)}/" if prefix.strip("/") else ""
    found = [info.key[len(start) :] for info in islice(store.list(start), _NUM_LISTED)]
    if not found:
        return (
            f"There is nothing under {address}: no {MANIFEST_NAME} and no other file. Check the "
            "URI; if it is right, nothing was published there yet."
        )
    published = [
        key.removesuffix(f"/{MANIFEST_NAME}") for key in found if key.endswith(f"/{MANIFEST_NAME}")
    ]
    if published:
        shown = [join_uri(address, key) for key in _spread(published)[:_NUM_NAMES_SHOWN]]
        more = f", and {len(published) - len(shown)} more" if len(published) > len(shown) else ""
        return (
            f"{address} is no published folder itself, it has no {MANIFEST_NAME}; it holds such "
            f"folders: {', '.join(shown)}{more}. Name "
            f"{'it' if len(published) == 1 else 'one of them'} instead."
        )
    more = ", ..." if len(found) > _NUM_NAMES_SHOWN else ""
    holds = f"It holds {', '.join(found[:_NUM_NAMES_SHOWN])}{more}."
    if not _OWN_FOLDER.search(address):
        return (
            f"{address} has no {MANIFEST_NAME}, so it was not published by this program and cannot "
            f"be checked. {holds} Check the URI."
        )
    advice = "Let its writer finish"
    if len(found) < _NUM_LISTED:
        advice += ", or delete the folder"
    return (
        f"{address} has no {MANIFEST_NAME}, so it was never finished and is not used. {holds} "
        f"{advice}."
    )


def _spread(keys: list[str]) -> list[str]:
    """Order keys so that every top folder comes early: many data sets must not hide an adapter."""
    num_seen: Counter[str] = Counter()
    ranked = []
    for key in keys:
        top = key.partition("/")[0]
        ranked.append((num_seen[top], key))
        num_seen[top] += 1
    return [key for _, key in sorted(ranked)]


def describe_folder(
    folder: Path, *, created_by: str, inputs: Mapping[str, str] | None = None
) -> Manifest:
    """Hash the files of a local folder.

    Raises:
        InternalError: The folder is missing, or holds something that is not a file.
    """
    if not folder.is_dir():
        raise InternalError("FolderMissing", f"Cannot publish {folder}: it is not a folder.")
    paths = sorted(_folder_files(folder))

    def describe(path: str) -> ManifestFile:
        num_bytes, sha256 = hash_file(folder / path)
        return ManifestFile(path=path, num_bytes=num_bytes, sha256=sha256)

    return make_manifest(_in_parallel(describe, paths), created_by=created_by, inputs=inputs)


def hash_file(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 (hex) of a local file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


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
    """Store one file without ever replacing another content; return where it lies."""
    alternative = f"{file.path}.{file.sha256[:16]}"
    for key in ("", alternative):
        target = join_key(prefix, key or file.path)
        if not store.exists(target):  # spares the upload; the condition below decides
            try:
                store.upload_file(path, target, if_absent=True, on_bytes=on_bytes)
            except AlreadyExists:
                pass
            else:
                return _placed(file, key)
        if _hash_object(store, target) == (file.num_bytes, file.sha256):
            return _placed(file, key)
    raise StorageError(
        "StoreConflict",
        f"{join_uri(store.uri, join_key(prefix, alternative))} holds something else than the "
        "content its name stands for. It was changed after it was written; delete this one file "
        "and run again.",
    )


def _placed(file: ManifestFile, key: str) -> ManifestFile:
    return ManifestFile(path=file.path, num_bytes=file.num_bytes, sha256=file.sha256, key=key)


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
        f"({len(different)} files differ, first {different[0]!r}). What is published stays; read "
        "it, or publish under another prefix."
    )


def _fetch_file(store: ObjectStore, prefix: str, file: ManifestFile, path: Path) -> None:
    """Download one file unless it is there, and check it; read it again where it differs.

    What differs may be the half of an earlier process, or the network's fault.
    """
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
            num_bytes, sha256 = _hash_object(store, key)
        except ObjectNotFound:
            return f"{file.path} is missing"
        if sha256 == file.sha256:
            return None
    return (
        f"{file.path} expected {file.num_bytes} bytes, sha256 {file.sha256}, "
        f"got {num_bytes} bytes, sha256 {sha256}"
    )


def _hash_object(store: ObjectStore, key: str) -> tuple[int, str]:
    """Return size and SHA-256 of a stored object; of one that arrives damaged, no digest."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        for chunk in store.read_chunks(key):
            digest.update(chunk)
            num_bytes += len(chunk)
    except ChecksumMismatch:
        return num_bytes, "unknown (it arrived damaged)"
    return num_bytes, digest.hexdigest()


def _in_parallel(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, num_threads: int = _NUM_THREADS
) -> list[_Result]:
    """Run over all items; the first failure is raised and cancels what has not begun."""
    with ThreadPoolExecutor(num_threads, "storage") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

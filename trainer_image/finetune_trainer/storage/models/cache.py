"""Base models on this node: downloaded once, whole or not at all, shared by all processes.

``<cache>/models/<digest>/`` holds one model at one revision, ``<digest>.json`` the sizes and
SHA-256 of its files. A download collects in ``<digest>.partial/`` under a file lock and is renamed
when complete. Every process compares a model once with the record and fetches damaged files again.
The record detects faults, not an attacker who can write to the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage.access import StorageAccess
from finetune_trainer.storage.checksums import hash_file
from finetune_trainer.storage.errors import disk_full, local_writes
from finetune_trainer.storage.fetch import fetch_folder
from finetune_trainer.storage.hub.address import HubAddress, is_commit, parse_hub_uri
from finetune_trainer.storage.lookup import find_manifest
from finetune_trainer.storage.manifest import canonical_json
from finetune_trainer.storage.models.digests import (
    DownloadRecord,
    FileDigest,
    ReportFunction,
    find_differences,
    matches_listing,
    matches_name,
    read_record,
    record_of,
)
from finetune_trainer.storage.models.files import ModelSelection, check_usable, fingerprint
from finetune_trainer.storage.opening import open_patiently, open_store
from finetune_trainer.storage.store import (
    ObjectInfo,
    ObjectStore,
    is_local,
    local_path,
)

_NUM_THREADS = 4
_DEFAULT_REVISION = "main"
_DIGEST = re.compile(r"(sha256|files):[0-9a-f]{64}")


def fetch_model(
    uri: str,
    revision: str | None,
    access: StorageAccess,
    cache_dir: Path,
    *,
    include_weights: bool = True,
    allow_code: bool = False,
    pinned: str | None = None,
    tell: ReportFunction = lambda _: None,
    on_download: Callable[[float], None] = lambda _: None,
) -> tuple[Path, str]:
    """Bring a base model to this node.

    Args:
        uri: ``hf://org/name``, ``s3://bucket/prefix``, ``file:///folder`` or a plain path.
        revision: Branch, tag or commit on the Hub. Elsewhere only a digest counts: other words are
            ignored.
        access: How the store is reached.
        cache_dir: Cache of this node; processes may share it.
        include_weights: False brings only configuration and tokenizer.
        allow_code: Also bring ``.py`` files, for ``trustRemoteCode``.
        pinned: The revision that this function returned earlier in the same run; other content is
            refused.
        tell: Called with messages: damage in the cache, how long a check took.
        on_download: Called with the seconds that a download took; not if the model is here.

    Returns:
        The folder and its revision: a commit id, ``sha256:<digest of the manifest>``, or
            ``files:<digest>`` where there is no manifest.

    Raises:
        UserError: ``ModelNotFound``, ``ModelUnusable``, ``RevisionMismatch``, ``BaseModelChanged``,
            ``AccessDenied`` ...
        StorageError: ``Unreachable``, ``DiskFull``, ``ChecksumMismatch`` ...
    """
    selection = ModelSelection(include_weights=include_weights, allow_code=allow_code)
    if is_local(uri):
        folder, resolved = _use_in_place(local_path(uri), uri, selection, tell)
        _check_revision(uri, revision, resolved)
        _check_pinned(uri, pinned, resolved)
        return folder, resolved
    cache = _Cache(folder=cache_dir, selection=selection, tell=tell, on_download=on_download)
    if uri.startswith("hf://"):
        return _fetch_from_hub(parse_hub_uri(uri), revision, access, cache, pinned)
    return _fetch_from_store(uri, revision, access, cache, pinned)


def _use_in_place(
    folder: Path, uri: str, selection: ModelSelection, tell: ReportFunction
) -> tuple[Path, str]:
    if not folder.is_dir():
        raise UserError(
            "ModelNotFound",
            f"There is no model folder {folder} (from {uri!r}). Check the path; in a pod, check "
            "that the volume with the model is mounted there.",
        )
    store = open_store(str(folder))
    files = list(store.list())
    check_usable(files, uri, selection)
    manifest = find_manifest(store, "")
    if manifest is None:
        return folder, f"files:{fingerprint(folder, files)}"
    sizes = {file.key: file.num_bytes for file in files}
    for file in manifest.files:
        if sizes.get(file.path) != file.num_bytes:
            raise UserError(
                "ModelUnusable",
                f"{folder / file.path} has {sizes.get(file.path, 'no')} bytes, its manifest says "
                f"{file.num_bytes}. The copy is incomplete; copy the model again.",
            )
    chosen = {file.key for file in selection.choose(files)}
    expected = {
        file.path: FileDigest(num_bytes=file.num_bytes, sha256=file.sha256)
        for file in manifest.files
        if file.path in chosen
    }
    if differences := find_differences(folder, expected, tell=tell):
        raise UserError(
            "ModelUnusable",
            f"{folder}: {len(differences)} file(s) are not what the manifest says, first "
            f"{differences[0]}. The copy is damaged or was changed; copy the model again.",
        )
    return folder, f"sha256:{manifest.digest}"


def _fetch_from_store(
    uri: str, revision: str | None, access: StorageAccess, cache: _Cache, pinned: str | None
) -> tuple[Path, str]:
    store = open_patiently(uri, access, cache.tell)
    listed = sorted(store.list(), key=lambda file: file.key)
    manifest = find_manifest(store, "") if listed else None
    if manifest is None:
        files = listed
        tags = [[file.key, file.num_bytes, file.version] for file in files]
        resolved = f"files:{hashlib.sha256(canonical_json(tags)).hexdigest()}"
    else:
        files = [ObjectInfo(key=file.path, num_bytes=file.num_bytes) for file in manifest.files]
        resolved = f"sha256:{manifest.digest}"
    check_usable(files, uri, cache.selection)
    _check_revision(uri, revision, resolved)
    _check_pinned(uri, pinned, resolved)
    wanted = cache.selection.choose(files)
    paths = {file.key for file in wanted}

    def fill(folder: Path) -> Mapping[str, FileDigest]:
        if manifest is None:
            return _download_files(store, wanted, folder)
        fetch_folder(store, "", folder, only=paths)
        return {
            file.path: FileDigest(num_bytes=file.num_bytes, sha256=file.sha256)
            for file in manifest.files
            if file.path in paths
        }

    return cache.get(store.uri, resolved, wanted, fill), resolved


def _fetch_from_hub(
    address: HubAddress,
    revision: str | None,
    access: StorageAccess,
    cache: _Cache,
    pinned: str | None,
) -> tuple[Path, str]:
    from finetune_trainer.storage.hub.store import HubStore, is_offline

    asked = revision if revision and revision != _DEFAULT_REVISION else None
    if asked and address.revision not in (None, asked):
        raise UserError(
            "RevisionMismatch",
            f"{address.uri} is given with revision {address.revision!r} and the job asks for "
            f"{asked!r}. Name the revision in one place.",
        )
    name = pinned or asked or address.revision or _DEFAULT_REVISION
    # A commit never changes, so no request is needed.
    known = name if is_commit(name) else cache.read_reference(address.uri, name)
    if known and (is_commit(name) or is_offline()) and (hit := cache.find(address.uri, known)):
        return hit, known
    if is_offline():
        if known:
            cache.find(address.uri, known, tell_damage=True)
        return _use_hub_cache(address, name, cache)
    store = HubStore(
        replace(address, revision=name),
        access,
        allow_code=cache.selection.allow_code,
        tell=cache.tell,
    )
    commit = store.commit
    files = list(store.list())
    check_usable(files, store.uri, cache.selection)
    wanted = cache.selection.choose(files)
    folder = cache.get(
        address.uri, commit, wanted, lambda target: _download_files(store, wanted, target)
    )
    cache.write_reference(address.uri, name, commit)
    return folder, commit


def _use_hub_cache(address: HubAddress, name: str, cache: _Cache) -> tuple[Path, str]:
    from finetune_trainer.storage.hub.store import find_in_hub_cache

    folder, commit = find_in_hub_cache(address, name)
    files = [file for file in open_store(str(folder)).list() if (folder / file.key).is_symlink()]
    for file in cache.selection.choose(files):
        blob = (folder / file.key).resolve()
        if not matches_name(blob, blob.name):
            raise UserError(
                "ModelUnusable",
                f"{folder / file.key} is not what huggingface_hub downloaded: {blob} does not have "
                "the digest in its name. It is damaged or was changed; download the model again "
                "with `hf download --force-download`.",
            )
    return folder, commit


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cache:
    """The models of this node, for one selection of files."""

    folder: Path
    selection: ModelSelection
    tell: ReportFunction
    on_download: Callable[[float], None]

    def find(self, uri: str, revision: str, *, tell_damage: bool = False) -> Path | None:
        """Return the folder of a model that is here whole; needs no write access."""
        for selection in dict.fromkeys(
            (self.selection, replace(self.selection, include_weights=True))
        ):
            folder = self._place(uri, revision, selection)
            recorded = read_record(self._record(folder))
            if recorded is None:
                continue
            differences = find_differences(folder, recorded, tell=self.tell)
            if not differences:
                return folder
            if tell_damage:
                self.tell(
                    f"{len(differences)} of {len(recorded)} cached files of {uri} at {revision} "
                    f"are not what was downloaded to {folder}: first {differences[0]}. They are "
                    "not used; if nothing was deleted there, look for a failing disk or a foreign "
                    "writer"
                )
        return None

    def get(
        self,
        uri: str,
        revision: str,
        files: Sequence[ObjectInfo],
        fill: Callable[[Path], Mapping[str, FileDigest]],
    ) -> Path:
        """Return the folder of a model, filled by one process while the others wait."""
        from filelock import FileLock

        if hit := self.find(uri, revision):
            return hit
        folder = self._place(uri, revision, self.selection)
        partial = folder.with_name(f"{folder.name}.partial")
        with local_writes(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if hit := self.find(uri, revision, tell_damage=True):
                return hit
            with local_writes(folder):
                if folder.exists():  # damaged: its good files are kept
                    shutil.rmtree(partial, ignore_errors=True)
                    self._record(partial).unlink(missing_ok=True)
                    if self._record(folder).exists():
                        self._record(folder).rename(self._record(partial))
                    folder.rename(partial)
                partial.mkdir(exist_ok=True)
            _check_disk_space(partial, files)
            start = time.monotonic()
            digests = fill(partial)
            self.on_download(time.monotonic() - start)
            body = {"uri": uri, "revision": revision, "files": record_of(digests)}
            with local_writes(folder):
                _write_json(self._record(folder), body)
                partial.rename(folder)
                self._record(partial).unlink(missing_ok=True)
        return folder

    def read_reference(self, uri: str, name: str) -> str | None:
        """Return the commit a branch or tag had when it was last asked for."""
        try:
            commit = json.loads(self._reference(uri, name).read_text(encoding="utf-8"))["commit"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return commit if isinstance(commit, str) and is_commit(commit) else None

    def write_reference(self, uri: str, name: str, commit: str) -> None:
        """Remember the commit of a branch or tag, for offline runs."""
        if self.read_reference(uri, name) == commit or is_commit(name):
            return
        path = self._reference(uri, name)
        with local_writes(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_json(path, {"uri": uri, "name": name, "commit": commit})

    def _place(self, uri: str, revision: str, selection: ModelSelection) -> Path:
        digest = hashlib.sha256(canonical_json([uri, revision])).hexdigest()
        return self.folder / "models" / f"{digest[:32]}{selection.name}"

    def _reference(self, uri: str, name: str) -> Path:
        digest = hashlib.sha256(canonical_json([uri, name])).hexdigest()
        return self.folder / "refs" / f"{digest[:32]}.json"

    def _record(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.json")


def _check_revision(uri: str, revision: str | None, resolved: str) -> None:
    if revision and _DIGEST.fullmatch(revision) and revision != resolved:
        raise UserError(
            "RevisionMismatch",
            f"{uri} is at {resolved}, the job insists on {revision}. Its content changed; restore "
            "it, or accept the new content by changing spec.model.revision.",
        )


def _check_pinned(uri: str, pinned: str | None, resolved: str) -> None:
    if pinned and pinned != resolved:
        raise UserError(
            "BaseModelChanged",
            f"the base model at {uri} is {resolved} by now, this run began with {pinned}. Adapter "
            "and scores would belong to two models: restore the old content, or start the job "
            "again under a new name.",
        )


def _download_files(
    store: ObjectStore, files: Sequence[ObjectInfo], folder: Path
) -> Mapping[str, FileDigest]:
    """Download the missing files; return the digest of each file.

    An earlier file is kept if it matches that process's record or the store's listing.
    """
    record = DownloadRecord(folder)

    def get(file: ObjectInfo) -> None:
        path = folder / file.key
        if record.holds(folder, file.key):
            return
        if not matches_listing(path, file):
            path.unlink(missing_ok=True)
            store.download_file(file.key, path)
            _check_size(store, file, path)
        record.add(file.key, FileDigest(num_bytes=file.num_bytes, sha256=hash_file(path)[1]))

    with ThreadPoolExecutor(_NUM_THREADS, "model") as pool:
        futures = [pool.submit(get, file) for file in files]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {file.key: record.files[file.key] for file in files}


def _check_size(store: ObjectStore, file: ObjectInfo, path: Path) -> None:
    got = path.stat().st_size
    if got != file.num_bytes:
        path.unlink()
        raise StorageError(
            "ObjectChanging",
            f"{store.uri}/{file.key} has {got} bytes, its listing said {file.num_bytes}. It "
            "was replaced in between; run again when its writer is done.",
        )


def _check_disk_space(folder: Path, files: Sequence[ObjectInfo]) -> None:
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing = sum(file.num_bytes for file in files) - have
    if missing > shutil.disk_usage(folder).free:
        raise disk_full(folder, missing, "the model does not fit")


def _write_json(path: Path, body: dict[str, Any]) -> None:
    # Processes of one node may write the same record at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(body, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(path)

"""Checks published folders and versions against their manifests, byte by byte."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from finetune_cli.errors import CliError
from finetune_cli.exits import USER_ERROR

if TYPE_CHECKING:
    from rich.table import Table

    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import ManifestFile, StorageAccess, VerifiedManifest

WIDTH_OF_FULL_DIGESTS = 120

VERSION_URI = re.compile(r"^(?P<root>.*?)/?(?P<prefix>versions/[^/]+/[^/]+/\d+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A folder or version whose bytes match its manifest.

    Attributes:
        folder_uri: Folder of the weights; another than ``uri`` for a version.
        digest: Digest of the manifest's file list.
        extra_files: Files in the folder that the manifest does not name.
    """

    uri: str
    folder_uri: str
    files: tuple[ManifestFile, ...]
    created_by: str
    digest: str
    extra_files: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes read and compared."""
        return sum(file.num_bytes for file in self.files)


def verify_uri(uri: str, *, endpoint: str | None = None, region: str | None = None) -> Verified:
    """Read all files below a URI and compare them with its manifest.

    Raises:
        CliError: A file is missing or differs, there is no manifest (exit code 1), or storage
            cannot be read (its own exit code).
    """
    access = make_access(endpoint, region)
    from finetune_trainer.errors import StorageError, TrainerError
    from finetune_trainer.storage import NothingThere, open_store, verify_folder

    folder_uri = uri.removesuffix("/manifest.json").rstrip("/")
    try:
        match = VERSION_URI.match(folder_uri)
        if match:
            return _verify_version(folder_uri, match["root"], match["prefix"], access)
        manifest = verify_folder(open_store(folder_uri, access))
        return _verified(uri, folder_uri, manifest)
    except NothingThere as error:
        raise storage_error(error) from error
    except StorageError as error:
        is_verdict = error.reason in ("ChecksumMismatch", "IncompleteFolder", "InvalidManifest")
        raise CliError(error.message, exit_code=1 if is_verdict else error.exit_code) from error
    except TrainerError as error:
        raise storage_error(error) from error


def _verify_version(uri: str, root: str, prefix: str, access: StorageAccess) -> Verified:
    from finetune_trainer.storage import join_uri, open_store, verify_folder

    store = open_store(root, access)
    # A version points at files by their keys from the root of the output.
    manifest = verify_folder(store, prefix, keys_from="")
    folder = f"{manifest.inputs.get('run', '')}/adapter"
    return _verified(uri, join_uri(store.uri, folder), manifest)


def fetch_uri(
    uri: str, folder: Path, *, endpoint: str | None = None, region: str | None = None
) -> tuple[int, int]:
    """Copy a published folder or version to a local folder, checking every byte.

    Returns:
        Number of files, and their bytes.

    Raises:
        CliError: It cannot be read, or differs from its manifest.
    """
    access = make_access(endpoint, region)
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import fetch_folder, open_store

    folder_uri = uri.removesuffix("/manifest.json").rstrip("/")
    match = VERSION_URI.match(folder_uri)
    try:
        if match:
            store = open_store(match["root"], access)
            manifest = fetch_folder(store, match["prefix"], folder, keys_from="")
        else:
            manifest = fetch_folder(open_store(folder_uri, access), "", folder)
    except TrainerError as error:
        raise storage_error(error) from error
    return len(manifest.files), sum(file.num_bytes for file in manifest.files)


def find_adapter(uri: str, *, endpoint: str | None = None, region: str | None = None) -> str:
    """Return the folder of the adapter of a version or adapter URI.

    Raises:
        CliError: The version cannot be read, or there is no such folder on this machine.
    """
    folder_uri = uri.removesuffix("/manifest.json").rstrip("/")
    match = VERSION_URI.match(folder_uri)
    if not match:
        parts = urlsplit(folder_uri)
        path = unquote(parts.path) if "://" in folder_uri else folder_uri
        if parts.scheme in ("", "file") and not Path(path).expanduser().is_dir():
            raise CliError(f"{uri}: no such folder; name the folder adapter of a run, or a version")
        return folder_uri
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import join_uri, open_store, read_manifest

    try:
        store = open_store(match["root"], make_access(endpoint, region))
        version = read_manifest(store, match["prefix"])
    except TrainerError as error:
        raise storage_error(error) from error
    return join_uri(store.uri, f"{version.inputs.get('run', '')}/adapter")


def storage_error(error: TrainerError) -> CliError:
    """Return what ends a command that cannot read storage: a wrong name where nothing is there."""
    from finetune_trainer.storage import NothingThere

    is_absent = isinstance(error, NothingThere)
    return CliError(error.message, exit_code=USER_ERROR if is_absent else error.exit_code)


def make_access(endpoint: str | None, region: str | None) -> StorageAccess:
    """Return the access to storage: from options, else from the environment.

    Raises:
        CliError: The storage libraries are not installed.
    """
    import os

    try:
        from finetune_trainer.storage import StorageAccess
    except ImportError as error:
        raise CliError(
            f"reading object storage needs {error.name}; pip install 'finetune-operator[cli]'"
        ) from error
    return StorageAccess(
        endpoint=endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or None, region=region
    )


def _verified(uri: str, folder_uri: str, manifest: VerifiedManifest) -> Verified:
    return Verified(
        uri=uri,
        folder_uri=folder_uri,
        files=manifest.files,
        created_by=manifest.created_by,
        digest=manifest.digest,
        extra_files=manifest.extra_files,
    )


def verified_table(verified: Verified, *, width: int) -> Table:
    """Build the table of checked files; digests are cut to ``width`` columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    shown_digits = 64 if width >= WIDTH_OF_FULL_DIGESTS else 16
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("sha256", no_wrap=True)
    table.add_column("")
    for file in verified.files:
        table.add_row(
            file.path, f"{file.num_bytes:,}", file.sha256[:shown_digits], "ok", style="green"
        )
    for name in verified.extra_files:
        table.add_row(name, "", "", "not in the manifest", style="yellow")
    return table

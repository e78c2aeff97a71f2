"""Fetch the files of a source to the work folder and take their checksums.

Files are copied even when they are local: the checksum that names the data set then belongs to the
very bytes that are parsed, whatever happens to the original meanwhile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from finetune_api.v1alpha1.dataset import Source
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.files import EXTENSIONS
from finetune_trainer.storage import MANIFEST_NAME, ObjectNotFound, ObjectStore

NUM_NAMES_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One fetched file.

    Attributes:
        name: Path below the source, or the file's own name.
        path: The local copy.
        num_bytes: Size.
        sha256: Hex digest of the content.
    """

    name: str
    path: Path
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A source URI, taken apart.

    Attributes:
        root: URI a store is opened at.
        key: Object below it; empty when the whole root is meant.
    """

    root: str
    key: str


def locate(uri: str) -> Location:
    """Split the URI of a source into a store and a key.

    A URI that ends in a known extension names a file, any other a folder. On the Hub a source is
    always a repository of type dataset, whether or not the URI says ``hf://datasets/``.
    """
    scheme, _, rest = uri.partition("://")
    rest = rest.rstrip("/")
    if scheme == "hf" and not rest.startswith(("datasets/", "models/")):
        rest = f"datasets/{rest}"
    parent, _, name = rest.rpartition("/")
    if parent and PurePosixPath(name).suffix.lower() in EXTENSIONS:
        # Stores read %20 in their URI as a blank; the same must hold for the last part.
        return Location(root=f"{scheme}://{parent}", key=unquote(name))
    return Location(root=f"{scheme}://{rest}", key="")


def fetch_source(source: Source, store: ObjectStore, key: str, folder: Path) -> list[SourceFile]:
    """Fetch the files of a source, in the order of their names.

    Args:
        source: The source, for messages.
        store: The store of :func:`locate`'s root.
        key: Its key; empty for the whole root.
        folder: Where the local copies go.

    Raises:
        UserError: ``DatasetNotFound``: nothing readable lies there; says what does.
        StorageError: The storage could not be read.
    """
    try:
        if key and store.exists(key):
            return [_fetch(store, key, key, folder)]
        prefix = f"{key}/" if key else ""  # a folder may have a name like a file's
        found = [info.key for info in store.list(prefix)]
        files = sorted(name for name in found if _is_data(name.removeprefix(prefix)))
        if files:
            return [_fetch(store, name, name.removeprefix(prefix), folder) for name in files]
        raise UserError("DatasetNotFound", _explain_missing(source.uri, store, key, found))
    except UserError as error:
        if error.reason != "ModelNotFound":  # the Hub's store has models in mind
            raise
        raise UserError("DatasetNotFound", error.message) from error


def _fetch(store: ObjectStore, key: str, name: str, folder: Path) -> SourceFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download_file(key, path)
    except ObjectNotFound as error:
        raise UserError(
            "DatasetNotFound", f"{key} vanished from {store.uri} while it was being read"
        ) from error
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return SourceFile(name=name, path=path, num_bytes=path.stat().st_size, sha256=digest)


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts) or path.name == MANIFEST_NAME:
        return False
    return path.suffix.lower() in EXTENSIONS


def _explain_missing(uri: str, store: ObjectStore, key: str, found: list[str]) -> str:
    if not found and key:
        # A bucket may hold millions of objects; a few names are enough of a hint.
        found = [info.key for info in islice(store.list(), NUM_NAMES_SHOWN + 1)]
    names = ", ".join(found[:NUM_NAMES_SHOWN])
    if len(found) > NUM_NAMES_SHOWN:
        names += ", ..."
    return (
        f"no data set at {uri}: expected a file, or a folder with files, ending in "
        f"{', '.join(EXTENSIONS)}; {store.uri} holds {names or 'nothing'}. Check the URI"
    )

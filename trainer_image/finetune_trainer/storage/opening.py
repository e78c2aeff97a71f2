"""Opens the store that a URI names; the one place that knows every kind of store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from finetune_trainer.errors import UserError
from finetune_trainer.storage.access import StorageAccess
from finetune_trainer.storage.patience import Kind, Patience, PatientStore, decide_patience
from finetune_trainer.storage.store import ObjectStore, local_path


def open_store(uri: str, access: StorageAccess | None = None) -> ObjectStore:
    """Open ``s3://bucket/prefix``, ``file:///absolute``, ``hf://...`` or a plain path.

    Raises:
        UserError: ``InvalidUri``, ``BucketNotFound``, ``CredentialsMissing``.
    """
    access = access or StorageAccess()
    scheme, separator, _ = uri.partition("://")
    match scheme.lower() if separator else "":
        case "s3":
            from finetune_trainer.storage.s3.store import S3Store

            return S3Store(uri, access)
        case "file" | "":
            from finetune_trainer.storage.local import FileStore

            return FileStore(local_path(uri))
        case "hf":
            from finetune_trainer.storage.hub.store import open_hub_store

            return open_hub_store(uri, access)
        case "pvc":
            raise UserError(
                "InvalidUri",
                f"{uri!r} names a volume claim of a cluster; it is mounted as a folder there. "
                "For a local run give that folder as file:///absolute/path.",
            )
        case _:
            raise UserError(
                "InvalidUri",
                f"{uri!r} has the scheme {scheme!r}; supported are s3://bucket/prefix, "
                "file:///absolute/path, hf://org/name@revision and plain paths.",
            )


def open_patiently(
    uri: str,
    access: StorageAccess | None,
    tell: Callable[[str], None],
    *,
    known: Iterable[Kind] = (),
) -> ObjectStore:
    """Open the store of a URI for a stage: its calls outlast minutes of outage.

    ``tell`` is called when an outage begins, lasts and ends. ``known`` holds answers that an
    earlier process got from the store.

    Raises:
        UserError: As :func:`open_store`.
    """
    patience = Patience(tell, seconds=decide_patience(os.environ), known=known)
    return PatientStore(open_store(uri, access), patience)

"""Object storage for stages and the CLI: ``s3://``, ``file://`` and read-only ``hf://``.

The client libraries are imported only when a store of their kind is opened.
"""

from __future__ import annotations

from finetune_trainer.storage.access import Addressing, StorageAccess
from finetune_trainer.storage.checksums import hash_file
from finetune_trainer.storage.documents import read_json
from finetune_trainer.storage.errors import (
    AlreadyExists,
    ChecksumMismatch,
    IncompleteFolder,
    NothingThere,
    ObjectNotFound,
    OtherWriterWon,
)
from finetune_trainer.storage.fetch import VerifiedManifest, fetch_folder, verify_folder
from finetune_trainer.storage.lookup import find_manifest, read_manifest
from finetune_trainer.storage.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestFile,
    make_manifest,
)
from finetune_trainer.storage.opening import open_patiently, open_store
from finetune_trainer.storage.publish import commit_manifest, publish_folder, store_files
from finetune_trainer.storage.store import (
    ObjectInfo,
    ObjectStore,
    is_local,
    join_key,
    join_uri,
    local_path,
)

__all__ = [
    "MANIFEST_NAME",
    "Addressing",
    "AlreadyExists",
    "ChecksumMismatch",
    "IncompleteFolder",
    "NothingThere",
    "Manifest",
    "ManifestFile",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectStore",
    "OtherWriterWon",
    "StorageAccess",
    "VerifiedManifest",
    "commit_manifest",
    "fetch_folder",
    "find_manifest",
    "hash_file",
    "is_local",
    "join_key",
    "join_uri",
    "local_path",
    "make_manifest",
    "open_patiently",
    "open_store",
    "publish_folder",
    "read_json",
    "read_manifest",
    "store_files",
    "verify_folder",
]

"""Finds the manifest of a stored folder, or describes the content of an unpublished one."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

from finetune_trainer.errors import StorageError
from finetune_trainer.storage.errors import IncompleteFolder, NothingThere, ObjectNotFound
from finetune_trainer.storage.manifest import MANIFEST_NAME, Manifest, parse_manifest
from finetune_trainer.storage.store import ObjectStore, join_key, join_uri
from finetune_trainer.storage.stream import READ_ATTEMPTS

_NUM_NAMES_SHOWN = 5
_NUM_LISTED = 10_000
"""Most objects to list for a message; a bucket may hold millions."""
_OWN_FOLDER = re.compile(
    r"/(datasets/[0-9a-f]{64}"
    r"|runs/[^/]+/[^/]+/[^/]+/(adapter|merged|evaluation|checkpoints/step-\d+)"
    r"|versions/[^/]+/[^/]+/\d+)$"
)
"""Addresses that only this program writes; a remedy must never delete another folder."""


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
        NothingThere: The folder is empty, or is not there.
        IncompleteFolder: There is none; names the folder and what is in it.
    """
    manifest = find_manifest(store, prefix)
    if manifest is not None:
        return manifest
    address = join_uri(store.uri, prefix.strip("/"))
    start = f"{join_key(prefix)}/" if prefix.strip("/") else ""
    found = [info.key[len(start) :] for info in islice(store.list(start), _NUM_LISTED)]
    if not found:
        raise NothingThere(
            f"There is nothing under {address}: no {MANIFEST_NAME} and no other file. Check the "
            "URI; if it is right, nothing was published there yet."
        )
    raise IncompleteFolder(_explain_unpublished(address, found))


def _explain_unpublished(address: str, found: list[str]) -> str:
    """Describe an unpublished folder; advise deletion only where nothing can be lost."""
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

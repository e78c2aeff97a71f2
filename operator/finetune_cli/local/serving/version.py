"""Finds a published version by its URI, or by the run that published it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.local.verify import VERSION_URI, make_access, storage_error

if TYPE_CHECKING:
    from finetune_trainer.storage import ObjectStore, StorageAccess

RUN_URI = re.compile(
    r"^(?P<root>.*?)/?(?P<run>runs/(?P<namespace>[^/]+)/(?P<job>[^/]+)/[^/]+)(/adapter|/evaluation)?$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedVersion:
    """A published version.

    Attributes:
        root: URI of the job's output, which holds the version.
        access: How to reach that output.
        namespace: Namespace of its job.
        job: Name of its job.
        number: Its number.
        sha256: SHA-256 of its manifest.
        run: Folder of the run that published it, below the root.
        uid: UID of that run.
        record: How it was trained: the adapter's ``run.json``.
        has_adapter: Whether it is an adapter; else whole weights.
    """

    root: str
    access: StorageAccess
    namespace: str
    job: str
    number: int
    sha256: str
    run: str
    uid: str
    record: Mapping[str, Any]
    has_adapter: bool

    @property
    def manifest_uri(self) -> str:
        """URI of its manifest."""
        return f"{self.root}/versions/{self.namespace}/{self.job}/{self.number}/manifest.json"


def find_version(
    target: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    published_as: str | None = None,
) -> PublishedVersion:
    """Return the version that a URI or folder names, or the newest that a run has published.

    Args:
        target: The URI or folder.
        endpoint: URL of the S3 server.
        region: S3 region.
        published_as: Name that the run publishes under; None for the name of its job.

    Raises:
        CliError: It names neither, nothing was published, or storage cannot be read.
    """
    uri = _as_uri(target)
    access = make_access(endpoint, region)
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store

    match = VERSION_URI.match(uri) or RUN_URI.match(uri)
    if match is None:
        raise CliError(
            f"{target} names no version and no run: give a job file that was run here, "
            ".../versions/NAMESPACE/NAME/N, or .../runs/NAMESPACE/NAME/UID"
        )
    try:
        store = open_store(match["root"], access)
        prefix = match.groupdict().get("prefix")
        prefix = prefix or _newest_of(store, match, target, published_as or match["job"])
        return _read_version(store, access, prefix)
    except TrainerError as error:
        raise storage_error(error) from error


def read_first_prompt(version: PublishedVersion) -> Any:
    """Return the first held-out question: a text, or messages; None where there is none."""
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store

    try:
        store = open_store(version.root, version.access)
        samples = store.read_bytes(f"{version.run}/evaluation/samples.jsonl")
        return json.loads(samples.partition(b"\n")[0])["prompt"]
    except (TrainerError, ValueError, KeyError, TypeError):
        return None


def _as_uri(target: str) -> str:
    uri = target.removesuffix("/manifest.json").rstrip("/")
    return uri if "://" in uri else f"file://{Path(uri).expanduser().absolute()}"


def _newest_of(store: ObjectStore, match: re.Match[str], target: str, name: str) -> str:
    """Return the prefix of the newest version that a run has published."""
    from finetune_trainer.storage import find_manifest

    folder = f"versions/{unquote(match['namespace'])}/{name}"
    parts = [info.key.removeprefix(f"{folder}/").partition("/")[0] for info in store.list(folder)]
    for number in sorted({int(part) for part in parts if part.isdigit()}, reverse=True):
        manifest = find_manifest(store, f"{folder}/{number}")
        if manifest is not None and manifest.inputs.get("run") == match["run"]:
            return f"{folder}/{number}"
    raise CliError(
        f"{target} has published no version, so there is nothing to serve: finetune report shows "
        "why, and finetune publish --override publishes it all the same",
        exit_code=NOT_MET,
    )


def _read_version(store: ObjectStore, access: StorageAccess, prefix: str) -> PublishedVersion:
    from finetune_trainer.storage import MANIFEST_NAME, read_manifest

    _, namespace, job, number = prefix.split("/")
    manifest = read_manifest(store, prefix)
    body = store.read_bytes(f"{prefix}/{MANIFEST_NAME}")
    run = manifest.inputs.get("run", "")
    return PublishedVersion(
        root=store.uri.rstrip("/"),
        access=access,
        namespace=namespace,
        job=job,
        number=int(number),
        sha256=hashlib.sha256(body).hexdigest(),
        run=run,
        uid=manifest.inputs.get("uid", ""),
        record=json.loads(store.read_bytes(f"{run}/adapter/run.json")),
        has_adapter=manifest.file("adapter_model.safetensors") is not None,
    )

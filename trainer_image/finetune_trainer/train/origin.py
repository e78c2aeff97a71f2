"""``spec.initFrom``: fetches the weights that a job begins from and checks that they fit.

They may be a checkpoint, the best weights, an adapter or a published version of any run. The first
attempt pins their digest, so that every retry begins from the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import UserError
from finetune_trainer.planning.experts import OPEN_CHOICES
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import (
    AlreadyExists,
    IncompleteFolder,
    Manifest,
    ObjectStore,
    fetch_folder,
    open_patiently,
    read_json,
    read_manifest,
)
from finetune_trainer.train.checkpoint import check_files

PIN = "origin.json"
_VERSION = re.compile(r"(.*)/(versions/[^/]+/[^/]+/[0-9]+)")
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ADAPTER_CONFIG = "adapter_config.json"
_RECORD = "run.json"
_WHOLE_WEIGHTS = re.compile(r"model[^/]*\.safetensors(\.index\.json)?|(generation_)?config\.json")
_SAME_WEIGHTS = {"QLoRA": "LoRA"}
"""Adapter types with the same weights over a differently held base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Weights on the local disk to begin from.

    Attributes:
        uri: Where they came from.
        digest: Digest of their manifest.
        folder: The weights and their configuration.
    """

    uri: str
    digest: str
    folder: Path


def fetch_origin(
    storage: RunStorage, workspace: Workspace, adapter: Adapter, *, model_name: str, revision: str
) -> Origin | None:
    """Fetch and check the weights to begin from; None if the job begins fresh.

    ``adapter`` is the job's; modules that are still ``auto`` are those of the weights.
    ``model_name`` and the resolved ``revision`` are those of this job's base model.

    Raises:
        UserError: They are not there, do not fit the job, or changed since the first attempt.
        StorageError: They are damaged, or storage failed.
    """
    wanted = storage.job.spec.init_from
    if wanted is None:
        return None
    root, prefix = split_uri(wanted.uri)
    store = open_patiently(root, storage.access(wanted.credentials_ref), storage.say)
    manifest = _read_manifest(store, prefix, wanted.uri)
    digest = pin_digest(storage, wanted.uri, manifest.digest)
    paths = choose_files(manifest, adapter, wanted.uri)
    folder = workspace.scratch("origin", fresh=True)
    keys_from = "" if prefix else None  # a version points at files from the output's root
    fetch_folder(store, prefix, folder, only=paths, keys_from=keys_from)
    check_files(folder, paths)
    facts = read_facts(manifest, folder)
    check_base(facts, wanted.uri, model=model_name, revision=revision)
    if (folder / _ADAPTER_CONFIG).exists():
        config = json.loads((folder / _ADAPTER_CONFIG).read_text())
        check_adapter(config, facts, adapter, wanted.uri)
    storage.say(f"beginning from the weights of {wanted.uri} (sha256 {digest})")
    return Origin(uri=wanted.uri, digest=digest, folder=folder)


def _read_manifest(store: ObjectStore, prefix: str, uri: str) -> Manifest:
    try:
        return read_manifest(store, prefix)
    except IncompleteFolder as error:
        raise UserError(
            "OriginNotFound",
            f"initFrom {uri}: {error.message} A run deletes its checkpoints as newer ones come "
            "(checkpoint.keepLast), and all of them once it has trained unless "
            "checkpoint.afterTraining is Keep.",
        ) from error


def split_uri(uri: str) -> tuple[str, str]:
    """Split the address of a stored folder into the store's root and the folder's key.

    A version needs the root, because its manifest points at files of the run.
    """
    uri = uri.rstrip("/")
    match = _VERSION.fullmatch(uri)
    return (match.group(1), match.group(2)) if match else (uri, "")


def pin_digest(storage: RunStorage, uri: str, digest: str) -> str:
    """Store the digest at the first attempt, and compare it at every later one.

    Raises:
        UserError: Other content lies there now.
    """
    key = f"{storage.job.run_prefix}/{PIN}"
    body = json.dumps({"uri": uri, "digest": digest}, indent=1, sort_keys=True) + "\n"
    with suppress(AlreadyExists):
        storage.output.write_bytes(key, body.encode(), if_absent=True)
    pinned = read_pin(storage)
    if pinned != digest:
        raise UserError(
            "OriginChanged",
            f"initFrom {uri} holds other files than when this job began: sha256 {digest} now, "
            f"{pinned} at the first attempt. Name a published version, which never changes, and "
            "create the job anew.",
        )
    return digest


def read_pin(storage: RunStorage) -> str:
    """Return the pinned digest, empty if nothing is pinned."""
    pin = read_json(storage.output, f"{storage.job.run_prefix}/{PIN}") or {}
    return str(pin.get("digest", ""))


def choose_files(manifest: Manifest, adapter: Adapter, uri: str) -> set[str]:
    """Return the paths of weights and configuration, without optimiser states.

    Raises:
        UserError: The folder holds an adapter instead of whole weights, or the reverse.
    """
    paths = {file.path for file in manifest.files}
    has_whole = any(_WHOLE_WEIGHTS.fullmatch(path) and "safetensors" in path for path in paths)
    is_adapter = _ADAPTER_WEIGHTS in paths
    if is_adapter != (adapter.type != "Full"):
        held = "an adapter" if is_adapter else "whole weights (Full)" if has_whole else "no weights"
        raise UserError(
            "OriginMismatch",
            f"initFrom {uri} holds {held}, method.adapter.type is {adapter.type}: both must be "
            "alike",
        )
    if not is_adapter and not has_whole:
        raise UserError(
            "OriginMismatch",
            f"initFrom {uri} holds no weights in one piece: a checkpoint of several ranks may hold "
            "the part of each. Name the best weights (checkpoints/best-<step>) or the adapter of "
            "that run.",
        )
    if is_adapter:
        return paths & {_ADAPTER_WEIGHTS, _ADAPTER_CONFIG, _RECORD}
    return {path for path in paths if path == _RECORD or _WHOLE_WEIGHTS.fullmatch(path)}


def read_facts(manifest: Manifest, folder: Path) -> Mapping[str, str]:
    """Return a folder's record: a checkpoint's manifest, else ``run.json``."""
    facts = _read_record(folder)
    told = {key: value for key, value in facts.items() if isinstance(value, str)}
    return {**told, **manifest.inputs}


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


def check_base(facts: Mapping[str, str], uri: str, *, model: str, revision: str) -> None:
    """Refuse weights of another or unknown base model with ``UserError``."""
    theirs = facts.get("revision", "")
    if theirs == revision:
        return
    name = facts.get("model") or "an unknown model"
    raise UserError(
        "OriginOfOtherBase",
        f"initFrom {uri} was trained on {name} at revision {theirs or 'unknown'}; this job's model "
        f"is {model} at revision {revision}. Weights fit only the base they were trained on: set "
        "model.uri and model.revision to that one.",
    )


def check_adapter(
    config: Mapping[str, Any], facts: Mapping[str, str], adapter: Adapter, uri: str
) -> None:
    """Refuse an adapter of another shape.

    ``config`` is its ``adapter_config.json``; ``facts`` are the facts stored beside it.

    Raises:
        UserError: Names every field that differs, with both values.
    """
    kind = "DoRA" if config.get("use_dora") else "RsLoRA" if config.get("use_rslora") else "LoRA"
    asked = ",".join(sorted(adapter.target_modules))
    targets = config.get("target_modules") or []
    theirs = facts.get("targetModules", "")
    if tuple(adapter.target_modules) in OPEN_CHOICES:
        asked = theirs
    if theirs != asked:
        resolved = [targets] if isinstance(targets, str) else targets
        theirs = ",".join(sorted(resolved))
    pairs = {
        "type": (kind, _SAME_WEIGHTS.get(adapter.type, adapter.type)),
        "rank": (config.get("r"), adapter.rank),
        "alpha": (config.get("lora_alpha"), adapter.alpha),
        "targetModules": (theirs, asked),
    }
    different = [
        f"method.adapter.{field} is {ours} here and {there} there"
        for field, (there, ours) in pairs.items()
        if there != ours
    ]
    if different:
        raise UserError(
            "OriginMismatch",
            f"initFrom {uri} does not fit this job: {'; '.join(different)}. Write what is there.",
        )

"""Publishes an adapter as the next version of its job's name: one manifest, written once.

``versions/<namespace>/<name>/<n>/manifest.json`` points at the run's files by checksum. A
conditional write claims the number. A published run is found by its UID.

The manifest's ``inputs`` record who published what, for readers that no longer find the job:
``job`` (name), ``uid``, ``publishedAs`` and ``weights`` (SHA-256 of the weights file). Manifests of
earlier releases lack all but ``uid``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.status.fields import MAX_VERSION
from finetune_trainer.errors import StorageError
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.publish.merged import find_merged
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import AlreadyExists, Manifest, ManifestFile, read_json

MAX_TRIES = 50
CARD = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published version, and the key of its manifest."""

    number: int
    key: str

    @property
    def prefix(self) -> str:
        """Key of its folder."""
        return self.key.rpartition("/")[0]


def find_version(storage: RunStorage) -> Published | None:
    """Return the version that this run was published as, or None."""
    for number in reversed(_versions(storage)):
        key = _key_of(storage.job, number)
        known = read_json(storage.output, key) or {}
        if known.get("inputs", {}).get("uid") == storage.job.uid:
            return Published(number=number, key=key)
    return None


def newest_version(storage: RunStorage, *, before: int | None = None) -> Published | None:
    """Return the newest version of the job's name that other runs have published, or None.

    A version whose manifest cannot be read is somebody else's too: whoever asks must find out.

    Args:
        storage: The run's.
        before: Only versions with a lower number.
    """
    for number in reversed(_versions(storage)):
        if before is not None and number >= before:
            continue
        version = Published(number=number, key=_key_of(storage.job, number))
        try:
            known = read_json(storage.output, version.key) or {}
            is_own = known["inputs"]["uid"] == storage.job.uid
        except (ValueError, KeyError, TypeError, RecursionError):
            is_own = False
        if not is_own:
            return version
    return None


def version_of(job: ResolvedJob, number: int) -> Published:
    """Return a version of the job's name by its number."""
    return Published(number=number, key=_key_of(job, number))


def claim_version(
    storage: RunStorage,
    *,
    model_name: str,
    adapter: Manifest,
    evaluation: Manifest,
    result: EvaluateResult,
    card: tuple[ManifestFile | None, str],
    inputs: Mapping[str, str],
) -> Published:
    """Claim the next version, or find the version of this run.

    ``card`` is the model card, and the key of its folder; ``inputs`` go into the manifest.

    Raises:
        StorageError: Others claimed every number tried.
    """
    job = storage.job
    body = _version_manifest(storage, model_name, adapter, evaluation, result, card, inputs)
    for _ in range(MAX_TRIES):
        if (published := find_version(storage)) is not None:
            return published
        versions = _versions(storage)
        number = (versions[-1] if versions else 0) + 1
        try:
            data = json.dumps(body, indent=1, sort_keys=True) + "\n"
            storage.output.write_bytes(_key_of(job, number), data.encode(), if_absent=True)
        except AlreadyExists:
            continue
        storage.say(f"published as version {number} of {job.namespace}/{job.published_name}")
        return version_of(job, number)
    raise StorageError(
        "VersionContended",
        f"could not claim a version under {storage.uri_of(job.versions_prefix)} in {MAX_TRIES} "
        "tries: other runs of the same name keep publishing; run again",
    )


def _key_of(job: ResolvedJob, number: int) -> str:
    return f"{job.versions_prefix}/{number}/manifest.json"


def _versions(storage: RunStorage) -> list[int]:
    prefix = storage.job.versions_prefix
    numbers = []
    for item in storage.output.list(prefix + "/"):
        match = re.fullmatch(r"(\d+)/manifest\.json", item.key.removeprefix(prefix + "/"))
        # Somebody else's number at the end would leave no next one.
        if match and int(match.group(1)) < MAX_VERSION:
            numbers.append(int(match.group(1)))
    return sorted(numbers)


def _version_manifest(
    storage: RunStorage,
    model_name: str,
    adapter: Manifest,
    evaluation: Manifest,
    result: EvaluateResult,
    card: tuple[ManifestFile | None, str],
    more: Mapping[str, str],
) -> dict[str, Any]:
    job = storage.job
    files = {file.path: _point_at(file, f"{job.run_prefix}/adapter") for file in adapter.files}
    # The adapter's own card was written before there were scores, and its bytes stay as they are.
    file, prefix = card
    if file is not None:
        files[CARD] = _point_at(file, prefix)
    inputs = {
        "job": job.name,
        "uid": job.uid,
        "publishedAs": job.published_name,
        "run": job.run_prefix,
        "weights": weights_file(adapter).sha256,
        "adapter": adapter.digest,
        "evaluation": evaluation.digest,
        "dataset": adapter.inputs.get("dataset", ""),
        "model": model_name,
        "goal": result.goal_message,
        "scores": json.dumps({s.name: [s.base, s.tuned] for s in result.scores}),
        **more,
    }
    if result.published is not None:
        compared = result.published
        inputs["comparedWith"] = json.dumps(
            {"version": compared.version, "digest": compared.digest}
        )
    if result.gates:
        inputs["gates"] = json.dumps({gate.name: gate.met for gate in result.gates})
    merged = find_merged(storage)
    if merged is not None:
        inputs["merged"] = merged.digest
    return {
        "files": [files[path] for path in sorted(files)],
        "createdBy": "finetune_trainer publish",
        "inputs": inputs,
    }


def _point_at(file: ManifestFile, prefix: str) -> dict[str, Any]:
    # Relative to the output's root: a bucket may be copied or renamed.
    key = f"{prefix}/{file.object_key}"
    return {"path": file.path, "bytes": file.num_bytes, "sha256": file.sha256, "key": key}

"""Fetches a version and its evaluation, every byte checked against the manifests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.errors import StorageError
from finetune_trainer.model.chat_format import FORMAT_NAME, read_format
from finetune_trainer.serve.agent.bounds import Refusal, bounded, check_files
from finetune_trainer.serve.agent.wanted import Wanted
from finetune_trainer.serve.verification import Stored, choose_questions, read_samples
from finetune_trainer.storage import (
    MANIFEST_NAME,
    ChecksumMismatch,
    IncompleteFolder,
    Manifest,
    NothingThere,
    ObjectNotFound,
    ObjectStore,
    StorageAccess,
    fetch_folder,
    open_store,
    read_json,
    read_manifest,
)
from finetune_trainer.storage.manifest import parse_manifest

T = TypeVar("T")

CLAIMS_DIR = "/var/lib/finetune/claims"
"""Where the claims of ``pvc://`` URIs are mounted."""
RECORD = "run.json"
CARD = "README.md"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
"""Files whose digest a job's status has, the first that there is."""
_DAMAGED = (ChecksumMismatch, IncompleteFolder, ObjectNotFound)
"""Errors of a working storage about files that have changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A version on this machine, with what its evaluation recorded.

    Attributes:
        sha256: Digest of its manifest, as it was read.
        folder: Its files.
        record: Its ``run.json``.
        questions: Held-out questions to ask, with the stored answers.
        metrics: Metrics of the evaluation, the most important first.
        engine: What computed the stored answers, with its version.
        answer_tokens: Longest answer of the evaluation; None if nobody recorded it.
    """

    sha256: str
    folder: Path
    record: Mapping[str, Any]
    questions: tuple[Stored, ...]
    metrics: tuple[str, ...]
    engine: str
    answer_tokens: int | None

    @property
    def revision(self) -> str:
        """Revision of the base model that it was trained on."""
        return str(self.record.get("revision") or "")

    def cut_to_answer(self, text: str) -> str:
        """Return the part of a generated text that the evaluation takes for the answer."""
        if not (self.folder / FORMAT_NAME).exists():
            return text
        return read_format(self.folder).cut_to_answer(text)


async def run_to_its_end(call: Callable[[], T]) -> T:
    """Run a call in a thread. A cancellation waits for the thread, which goes on writing."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def fetch_version(
    wanted: Wanted, folder: Path, *, credentials_dir: Path | None, scratch_bytes: int | None = None
) -> Fetched:
    """Fetch a version to a folder, which has room for ``scratch_bytes``; None if nobody knows.

    Raises:
        Refusal: ``FilesDamaged`` or ``OtherBaseModel``.
        TrainerError: Storage failed, or cannot be reached; trying again may help.
    """
    access = access_of(wanted.storage, credentials_dir)
    store = bounded(open_store(to_file_uri(wanted.storage.uri), access))
    try:
        return _fetch(store, wanted, folder, scratch_bytes)
    except NothingThere:
        raise  # an empty folder says more about the storage than about the version
    except _DAMAGED as error:
        raise Refusal("FilesDamaged", error.message) from error
    except StorageError as error:
        if error.reason != "ManifestInvalid":
            raise
        raise Refusal("FilesDamaged", error.message) from error


def access_of(storage: ServedStorage, credentials_dir: Path | None) -> StorageAccess:
    """Return how a storage is reached."""
    addressing = storage.addressing
    return StorageAccess(
        endpoint=storage.endpoint,
        region=storage.region,
        addressing=addressing if addressing in ("Path", "Virtual") else "Auto",  # type: ignore[arg-type]
        credentials_dir=credentials_dir,
        credentials_name=storage.credentials_secret,
    )


def to_file_uri(uri: str) -> str:
    """Return the URI that a pod opens: a claim is a mounted folder."""
    claim = uri.removeprefix("pvc://")
    return uri if claim == uri else f"file://{CLAIMS_DIR}/{claim}".rstrip("/")


def _fetch(store: ObjectStore, wanted: Wanted, folder: Path, scratch_bytes: int | None) -> Fetched:
    prefix = f"versions/{wanted.namespace}/{wanted.job}/{wanted.version}"
    expected = f"{wanted.storage.uri.rstrip('/')}/{prefix}/{MANIFEST_NAME}"
    if to_file_uri(wanted.manifest_uri) != to_file_uri(expected):
        raise Refusal(
            "FilesDamaged",
            f"the manifest of {wanted.name} must be {expected}, and the status names "
            f"{wanted.manifest_uri}",
        )
    try:
        manifest = read_manifest(store, prefix)
    except NothingThere as error:
        raise StorageError(
            "VersionNotFound",
            f"there is no version {wanted.version} of {wanted.job}: {expected} does not exist. Set "
            "spec.version to a published version, or remove it to follow the newest",
        ) from error
    data = store.read_bytes(f"{prefix}/{MANIFEST_NAME}")
    if parse_manifest(data, where=expected) != manifest:
        raise Refusal("FilesDamaged", f"{expected} changed while it was read")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        run = _check_manifest(store, manifest, wanted, sha256)
    except Refusal as refusal:
        refusal.sha256 = sha256
        raise
    if wanted.is_whole and "merged" in manifest.inputs:
        check_files(read_manifest(store, f"{run}/merged").files, max_bytes=scratch_bytes)
        merged = fetch_folder(store, f"{run}/merged", folder)
        if merged.digest != manifest.inputs["merged"]:
            raise Refusal("FilesDamaged", f"{run}/merged is not what the manifest names")
    else:
        check_files(manifest.files, max_bytes=scratch_bytes)
        names = {file.path for file in manifest.files} - {CARD}
        # The manifest points at files of the run that made it, from the output's root.
        if fetch_folder(store, prefix, folder, only=names, keys_from="") != manifest:
            raise Refusal("FilesDamaged", f"{expected} changed while its files were read")
    record = read_json(store, f"{run}/adapter/{RECORD}") or {}
    if not wanted.is_whole:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        _check_base(record, wanted)
    return _read_evaluation(store, run, manifest, folder, record, sha256=sha256)


def _check_manifest(store: ObjectStore, manifest: Manifest, wanted: Wanted, sha256: str) -> str:
    """Return the prefix of the run that published a version.

    Raises:
        Refusal: The manifest is another one than the status pins, or names files outside the run.
    """
    if wanted.sha256 not in ("", sha256):
        raise Refusal(
            "FilesDamaged",
            f"the manifest of {wanted.name} has sha256 {sha256}, and the status names "
            f"{wanted.sha256}: it was replaced after it was verified",
        )
    weights = next((file.sha256 for path in WEIGHTS if (file := manifest.file(path))), "none")
    if wanted.weights_sha256 not in ("", weights):
        raise Refusal(
            "FilesDamaged",
            f"the manifest of {wanted.name} names weights with sha256 {weights}, and the status "
            f"{wanted.weights_sha256}: it was replaced after it was published",
        )
    run, uid = manifest.inputs.get("run", ""), manifest.inputs.get("uid", "")
    own = rf"runs/{re.escape(wanted.namespace)}/([a-z0-9][-a-z0-9]*)/{re.escape(uid)}"
    found = re.fullmatch(own, run) if re.fullmatch("[^/]+", uid) else None
    if found is None or wanted.job_uid not in ("", uid):
        is_own = False
    else:
        # A job of another name may publish under this one (`output.publishAs`), if it says so.
        is_known = bool(wanted.job_uid) or found[1] == wanted.job
        is_own = is_known or _names_version(store, run, found[1], uid, wanted)
    if not is_own:
        raise Refusal(
            "FilesDamaged",
            f"the manifest of {wanted.name} names the run {run!r}, which is none that publishes as "
            f"{wanted.namespace}/{wanted.job} with UID {wanted.job_uid or uid!r}",
        )
    strange = [f.object_key for f in manifest.files if not f.object_key.startswith(f"{run}/")]
    if strange:
        raise Refusal(
            "FilesDamaged",
            f"the manifest of {wanted.name} names {strange[0]!r}, which is not below {run}",
        )
    return run


def _names_version(store: ObjectStore, run: str, job: str, uid: str, wanted: Wanted) -> bool:
    """Return whether the job that a run stored publishes under the name of a version."""
    try:
        body = read_json(store, f"{run}/job.json") or {}
        told = body["namespace"], body["name"], body["uid"], body["spec"]["output"]["publishAs"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(told == (wanted.namespace, job, uid, wanted.job))


def _check_base(record: Mapping[str, Any], wanted: Wanted) -> None:
    trained_on = record.get("modelUri")
    if trained_on and _plain(str(trained_on)) != _plain(wanted.base_model):
        raise Refusal(
            "OtherBaseModel",
            f"{wanted.name} was trained on {trained_on}, and this server has {wanted.base_model}",
        )


def _plain(uri: str) -> str:
    """Return the URI of a model without its revision."""
    return to_file_uri(uri).partition("@")[0].rstrip("/")


def _read_evaluation(
    store: ObjectStore,
    run: str,
    manifest: Manifest,
    folder: Path,
    record: Mapping[str, Any],
    *,
    sha256: str,
) -> Fetched:
    # The engine reads the folder of the version, and must not read the answers that it is to give.
    with TemporaryDirectory(prefix="finetune-evaluation-") as scratch:
        evaluation = Path(scratch)
        names = ("samples.jsonl", "report.json")
        try:
            files = read_manifest(store, f"{run}/evaluation").files
            check_files([file for file in files if file.path in names], is_loaded=False)
            fetched = fetch_folder(store, f"{run}/evaluation", evaluation, only=names)
        except NothingThere as error:
            raise Refusal("NothingToCompare", error.message) from error
        if fetched.digest != manifest.inputs.get("evaluation"):
            raise Refusal(
                "FilesDamaged", f"{run}/evaluation is not the evaluation that the manifest names"
            )
        try:
            report = json.loads((evaluation / "report.json").read_text("utf-8"))
            stored = read_samples((evaluation / "samples.jsonl").read_text("utf-8"))
            metrics = tuple(score["name"] for score in report["result"]["scores"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal("FilesDamaged", f"{run}/evaluation cannot be read: {error}") from error
    answer_tokens = report.get("answerTokens") or _tokens_of_job(store, run)
    chosen = choose_questions(stored, seed=sha256, is_limit_known=answer_tokens is not None)
    return Fetched(
        sha256=sha256,
        folder=folder,
        record=record,
        questions=tuple(chosen),
        metrics=metrics,
        engine=str(report.get("engine") or ""),
        answer_tokens=answer_tokens,
    )


def _tokens_of_job(store: ObjectStore, run: str) -> int | None:
    try:
        job = read_json(store, f"{run}/job.json") or {}
        given = job["spec"]["evaluation"]["maxNewTokens"]
    except (ValueError, KeyError, TypeError):
        return None
    return given if isinstance(given, int) else None

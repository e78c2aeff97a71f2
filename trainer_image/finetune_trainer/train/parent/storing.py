"""Stores the run's adapter once, and deletes its checkpoints."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.prepared import require_approved
from finetune_trainer.errors import InternalError, RetryableError
from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.publish.adapter import finish_adapter
from finetune_trainer.publish.merged import publish_merged
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.storage import MANIFEST_NAME, Manifest, fetch_folder, publish_folder
from finetune_trainer.train.checkpoint import drop_all
from finetune_trainer.train.parent.launch import Topology, read_topology
from finetune_trainer.train.parent.meeting import is_awaited
from finetune_trainer.train.record import read_result

PUBLICATION_SECONDS = 3600
"""How long the other nodes wait for rank 0 to upload: whole weights are many gigabytes."""
ASKING_SECONDS = 15
"""How often they ask whether node 0 has begun anew."""


def topology_of(job: ResolvedJob) -> Topology:
    """Return this node's place among those of the run."""
    resources = job.spec.resources
    return read_topology(resources.nodes, max(1, resources.gpus_per_node))


def checkpoints_prefix(job: ResolvedJob) -> str:
    """Return the key prefix of the run's checkpoints."""
    return f"{job.run_prefix}/checkpoints"


def reuse_adapter(
    model: BaseModel, workspace: Workspace, key: str, *, approved: str | None
) -> TrainResult:
    """Return the result of the run's published adapter, and complete its attempt's work.

    Raises:
        UserError: It was trained on another data set than was approved.
    """
    storage = model.storage
    storage.say("the adapter of this run is there already: reused")
    is_first = topology_of(storage.job).node_rank == 0
    manifest, folder, record = _fetch_adapter(
        storage, workspace, key, only=None if is_first else {"run.json"}
    )
    require_approved(record["dataset"], approved, storage.uri_of(key))
    if is_first:
        _drop_checkpoints(storage)
        publish_merged(model, workspace, manifest, folder, record)
    return read_result(storage.uri_of(key), manifest, record, reused=True)


def store_adapter(
    model: BaseModel,
    workspace: Workspace,
    key: str,
    final_dir: Path,
    record: dict[str, Any],
    chat_format: ChatFormat,
) -> TrainResult:
    """Finish the weights in a folder, store them as the run's adapter, and merge if requested.

    Args:
        model: The base model.
        workspace: The run's; it holds the curve and the checkpoints.
        key: Key of the adapter's folder.
        final_dir: The weights.
        record: Content of ``run.json``.
        chat_format: How conversations were written.

    Raises:
        StorageError: Storage failed.
    """
    storage, job = model.storage, model.storage.job
    finish_adapter(
        final_dir, job=job, model_name=model.name, record=record, chat_format=chat_format
    )
    curve = workspace.folder / "metrics.jsonl"
    if curve.exists():
        storage.output.upload_file(curve, f"{job.run_prefix}/metrics.jsonl")
    manifest = publish_folder(
        storage.output,
        key,
        final_dir,
        created_by="finetune_trainer train",
        inputs={
            "dataset": record["dataset"],
            "model": record["model"],
            "revision": record["revision"],
        },
    )
    _drop_checkpoints(storage)
    shutil.rmtree(workspace.folder / "checkpoints", ignore_errors=True)
    publish_merged(model, workspace, manifest, final_dir, record)
    return read_result(storage.uri_of(key), manifest, record)


def wait_for_adapter(storage: RunStorage, workspace: Workspace, key: str) -> TrainResult:
    """Wait on the other nodes until rank 0 has stored the adapter.

    They end when it has, so that a Job's success means just that.

    Raises:
        RetryableError: Node 0 has begun anew instead, and waits for this node.
        InternalError: It did neither.
    """
    topology = topology_of(storage.job)
    for second in range(PUBLICATION_SECONDS):
        if storage.output.exists(f"{key}/{MANIFEST_NAME}"):
            manifest, _, record = _fetch_adapter(storage, workspace, key, only={"run.json"})
            return read_result(storage.uri_of(key), manifest, record)
        if second % ASKING_SECONDS == 0 and is_awaited(topology, storage.job.uid):
            raise RetryableError(
                "PeerLost",
                "node 0 began anew before it had stored the adapter; the next attempt resumes at "
                "the last checkpoint",
            )
        time.sleep(1)
    raise InternalError(
        "NoPublication",
        f"rank 0 did not publish the adapter within {PUBLICATION_SECONDS // 60} minutes",
    )


def _fetch_adapter(
    storage: RunStorage, workspace: Workspace, key: str, *, only: set[str] | None = None
) -> tuple[Manifest, Path, dict[str, Any]]:
    """Fetch the stored adapter, or ``only`` some of its files, among them ``run.json``."""
    folder = workspace.scratch("adapter")
    manifest = fetch_folder(storage.output, key, folder, only=only)
    return manifest, folder, json.loads((folder / "run.json").read_text())


def _drop_checkpoints(storage: RunStorage) -> None:
    """Delete the run's checkpoints unless the job keeps them; its adapter is durable now."""
    if storage.job.spec.checkpoint.after_training == "Delete":
        drop_all(storage.output, checkpoints_prefix(storage.job))

"""Stores the run's adapter, once, and lets its checkpoints go."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import TrainResult
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import require_approved
from finetune_trainer.errors import InternalError
from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.publish.adapter import finish_adapter
from finetune_trainer.publish.merged import publish_merged
from finetune_trainer.storage import fetch_folder, publish_folder
from finetune_trainer.train.checkpoint import drop_all
from finetune_trainer.train.parent.launch import Topology, read_topology
from finetune_trainer.train.record import read_result

PUBLICATION_SECONDS = 3600
"""How long the other nodes wait for rank 0 to upload: whole weights are many gigabytes."""


def topology_of(context: StageContext) -> Topology:
    """Return this node's place among those of the run."""
    resources = context.job.spec.resources
    return read_topology(resources.nodes, max(1, resources.gpus_per_node))


def checkpoints_prefix(context: StageContext) -> str:
    """Return the key prefix of the run's checkpoints."""
    return f"{context.job.run_prefix}/checkpoints"


def reuse_adapter(context: StageContext, key: str) -> TrainResult:
    """Return the result of the run's published adapter, and complete its attempt's work.

    Raises:
        UserError: It was trained on another data set than was approved.
    """
    context.emit.message("the adapter of this run is there already: reused")
    folder = context.scratch("adapter")
    manifest = fetch_folder(context.output, key, folder)
    record = json.loads((folder / "run.json").read_text())
    require_approved(record["dataset"], context.approved_data, context.uri_of(key))
    if topology_of(context).node_rank == 0:
        _drop_checkpoints(context)
        publish_merged(context.model, context.workspace, manifest, folder, record)
    return read_result(context, key, manifest, record, reused=True)


def store_adapter(
    context: StageContext,
    key: str,
    final_dir: Path,
    record: dict[str, Any],
    chat_format: ChatFormat,
) -> TrainResult:
    """Finish the weights in a folder, store them as the run's adapter, and merge if requested.

    Args:
        context: The stage's context.
        key: Key of the adapter's folder.
        final_dir: The weights.
        record: Content of ``run.json``.
        chat_format: How conversations were written.

    Raises:
        StorageError: Storage failed.
    """
    job = context.job
    finish_adapter(
        final_dir,
        job=job,
        model_name=context.model_name,
        record=record,
        chat_format=chat_format,
    )
    curve = context.work_dir / "metrics.jsonl"
    if curve.exists():
        context.output.upload_file(curve, f"{job.run_prefix}/metrics.jsonl")
    manifest = publish_folder(
        context.output,
        key,
        final_dir,
        created_by="finetune_trainer train",
        inputs={
            "dataset": record["dataset"],
            "model": record["model"],
            "revision": record["revision"],
        },
    )
    _drop_checkpoints(context)
    shutil.rmtree(context.work_dir / "checkpoints", ignore_errors=True)
    publish_merged(context.model, context.workspace, manifest, final_dir, record)
    return read_result(context, key, manifest, record)


def wait_for_adapter(context: StageContext, key: str) -> TrainResult:
    """Wait on the other nodes until rank 0 has stored the adapter.

    Raises:
        InternalError: It never did.
    """
    # Other nodes end when rank 0 has published, so that a Job's success means just that. If rank 0
    # fails instead, the Job ends all of them; this is for a store that never answers.
    for _ in range(PUBLICATION_SECONDS):
        if context.output.exists(f"{key}/manifest.json"):
            folder = context.scratch("adapter")
            manifest = fetch_folder(context.output, key, folder)
            return read_result(
                context, key, manifest, json.loads((folder / "run.json").read_text())
            )
        time.sleep(1)
    raise InternalError(
        "NoPublication",
        f"rank 0 did not publish the adapter within {PUBLICATION_SECONDS // 60} minutes",
    )


def _drop_checkpoints(context: StageContext) -> None:
    """Delete the run's checkpoints unless the job keeps them; its adapter is durable now."""
    if context.job.spec.checkpoint.after_training == "Delete":
        drop_all(context.output, checkpoints_prefix(context))

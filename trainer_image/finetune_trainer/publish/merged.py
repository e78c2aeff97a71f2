"""The second output format: base and adapter merged into one model.

The adapter is durable before, so a later attempt repeats only this step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import InternalError, OutOfMemory, TrainerError
from finetune_trainer.failures import failure_of_record
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.process import die_with_parent
from finetune_trainer.publish.adapter import write_chat_files
from finetune_trainer.publish.card import model_card
from finetune_trainer.publish.merge import MergePlan
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.stopping import on_stop
from finetune_trainer.storage import Manifest, find_manifest, publish_folder

CREATED_BY = "finetune_trainer train"


def find_merged(storage: RunStorage) -> Manifest | None:
    """Return the manifest of the run's merged model, or None if there is none."""
    return find_manifest(storage.output, _merged_prefix(storage.job))


def publish_merged(
    model: BaseModel,
    workspace: Workspace,
    adapter: Manifest,
    adapter_dir: Path,
    record: dict[str, Any],
) -> None:
    """Write the merged model if the job asks for it and it is missing.

    ``adapter_dir`` is the local copy of ``adapter``; ``record`` is its ``run.json``.

    Raises:
        TrainerError: There is no merged model; the adapter stays published.
    """
    storage, job = model.storage, model.storage.job
    if "Merged" not in job.spec.output.formats:
        return
    if job.spec.method.adapter.type == "Full":
        storage.say(
            "output.formats Merged: full fine-tuning writes whole weights, there is nothing to "
            "merge; load the model from the folder adapter"
        )
        return
    address = storage.uri_of(_merged_prefix(job))
    if find_merged(storage) is not None:
        storage.say(f"the merged model of this run is there already: {address}")
        return
    storage.say("folding the adapter into the base model (float32, on the CPU)")
    with on_stop(
        "stopped on request while the merged model was written; the adapter is published, the next "
        "attempt only merges",
        reason="StoppedBeforeMerge",
    ):
        manifest = _fold(model, workspace, adapter, adapter_dir, record)
    workspace.scratch("merged", fresh=True)  # as large as the base: not to be left on the node
    storage.say(f"merged model, {manifest.num_bytes:,} bytes: {address}")


def _merged_prefix(job: ResolvedJob) -> str:
    return f"{job.run_prefix}/merged"


def _fold(
    model: BaseModel,
    workspace: Workspace,
    adapter: Manifest,
    adapter_dir: Path,
    record: dict[str, Any],
) -> Manifest:
    storage, job = model.storage, model.storage.job
    target = workspace.scratch("merged", fresh=True)
    model_dir, _ = model.fetch()
    merge_dir = workspace.scratch("merge", fresh=True)
    plan = MergePlan(
        model_dir=str(model_dir),
        adapter_dir=str(adapter_dir),
        target_dir=str(target),
        failure=str(merge_dir / "failure.json"),
        trust_remote_code=job.spec.model.trust_remote_code,
    )
    with storage.keeping_logs(merge_dir):
        _run_merge(merge_dir, plan)
    card = model_card(job, model_name=model.name, record=record, is_merged=True)
    write_chat_files(target, read_format(adapter_dir))
    (target / "README.md").write_text(card, encoding="utf-8")
    return publish_folder(
        storage.output,
        _merged_prefix(job),
        target,
        created_by=CREATED_BY,
        inputs={
            "adapter": adapter.digest,
            "dataset": record["dataset"],
            "model": record["model"],
            "revision": record["revision"],
        },
    )


def _run_merge(folder: Path, plan: MergePlan) -> None:
    """Run the merge in a separate process.

    Raises:
        TrainerError: As the process classified it.
        OutOfMemory: It was killed.
    """
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    # Without GPUs in sight nothing is placed on one by accident, whatever the libraries prefer.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with (folder / "merge.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer.publish.merge", str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        exit_code = process.wait()
    if exit_code:
        raise _failure_of(Path(plan.failure), exit_code)


def _failure_of(failure: Path, exit_code: int) -> TrainerError:
    if failure.exists():
        return failure_of_record(json.loads(failure.read_text()))
    if exit_code == -signal.SIGKILL:
        return OutOfMemory(
            "MergeOutOfMemory",
            "the process that folds the adapter into the base was killed, most likely for lack of "
            "memory: it needs about 2 GiB, or, where the model is loaded whole, four bytes per "
            "parameter and the largest weight file once more; raise resources.memory, or drop "
            "Merged from output.formats. The adapter is published",
        )
    return InternalError("MergeFailed", f"merging ended with exit code {exit_code} without a word")

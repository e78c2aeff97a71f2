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

from finetune_trainer.context import StageContext
from finetune_trainer.errors import InternalError, OutOfMemory, TrainerError
from finetune_trainer.failures import failure_of_record
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.process import die_with_parent
from finetune_trainer.publish.adapter import write_chat_files
from finetune_trainer.publish.card import model_card
from finetune_trainer.publish.merge import MergePlan
from finetune_trainer.stopping import on_stop
from finetune_trainer.storage import Manifest, find_manifest, publish_folder

CREATED_BY = "finetune_trainer train"


def merged_prefix(context: StageContext) -> str:
    """Return the key of the run's merged model."""
    return f"{context.job.run_prefix}/merged"


def find_merged(context: StageContext) -> Manifest | None:
    """Return the manifest of the run's merged model, or None if there is none."""
    return find_manifest(context.output, merged_prefix(context))


def publish_merged(
    context: StageContext, adapter: Manifest, adapter_dir: Path, record: dict[str, Any]
) -> None:
    """Write the merged model if the job asks for it and it is missing.

    ``adapter_dir`` is the local copy of ``adapter``; ``record`` is its ``run.json``.

    Raises:
        TrainerError: There is no merged model; the adapter stays published.
    """
    job = context.job
    if "Merged" not in job.spec.output.formats:
        return
    if job.spec.method.adapter.type == "Full":
        context.emit.message(
            "output.formats Merged: full fine-tuning writes whole weights, there is nothing to "
            "merge; load the model from the folder adapter"
        )
        return
    address = context.uri_of(merged_prefix(context))
    if find_merged(context) is not None:
        context.emit.message(f"the merged model of this run is there already: {address}")
        return
    context.emit.message("folding the adapter into the base model (float32, on the CPU)")
    with on_stop(
        "stopped on request while the merged model was written; the adapter is published, the next "
        "attempt only merges",
        reason="StoppedBeforeMerge",
    ):
        manifest = _fold(context, adapter, adapter_dir, record)
    context.scratch("merged", fresh=True)  # as large as the base: not to be left on the node
    context.emit.message(f"merged model, {manifest.num_bytes:,} bytes: {address}")


def _fold(
    context: StageContext, adapter: Manifest, adapter_dir: Path, record: dict[str, Any]
) -> Manifest:
    job = context.job
    target = context.scratch("merged", fresh=True)
    model_dir, _ = context.model_folder()
    merge_dir = context.scratch("merge", fresh=True)
    plan = MergePlan(
        model_dir=str(model_dir),
        adapter_dir=str(adapter_dir),
        target_dir=str(target),
        failure=str(merge_dir / "failure.json"),
        trust_remote_code=job.spec.model.trust_remote_code,
    )
    with context.keeping_logs(merge_dir):
        _run_merge(merge_dir, plan)
    card = model_card(job, model_name=context.model_name, record=record, is_merged=True)
    write_chat_files(target, read_format(adapter_dir))
    (target / "README.md").write_text(card, encoding="utf-8")
    return publish_folder(
        context.output,
        merged_prefix(context),
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
            "memory: it needs four bytes per parameter and the largest weight file once more; "
            "raise resources.memory, or drop Merged from output.formats. The adapter is published",
        )
    return InternalError("MergeFailed", f"merging ended with exit code {exit_code} without a word")

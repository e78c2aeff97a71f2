"""Stage ``train``: fetch, launch the ranks, publish the adapter.

This process never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import (
    Prepared,
    read_tokens,
)
from finetune_trainer.errors import StorageError, TrainerError
from finetune_trainer.model.adapters import name_targets
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.hardware import Hardware, detect_hardware, require_gpus
from finetune_trainer.model.load import (
    expected_attention,
    read_model_architecture,
    require_bitsandbytes,
)
from finetune_trainer.publish.merge import check_mergeable
from finetune_trainer.run import BaseModel, RunStorage, Workspace
from finetune_trainer.stopping import on_stop
from finetune_trainer.storage import MANIFEST_NAME
from finetune_trainer.train.checkpoint import LocalCheckpoint, fetch_newest
from finetune_trainer.train.deleted import refuse_deleted
from finetune_trainer.train.origin import fetch_origin
from finetune_trainer.train.parent.attempts import noting_end, read_ends
from finetune_trainer.train.parent.launch import Topology, run_ranks
from finetune_trainer.train.parent.meeting import meet
from finetune_trainer.train.parent.storing import (
    checkpoints_prefix,
    reuse_adapter,
    store_adapter,
    topology_of,
    wait_for_adapter,
)
from finetune_trainer.train.parent.watchdog import Limits
from finetune_trainer.train.ranks.handover import WorkerPlan
from finetune_trainer.train.recipe.evaluation import plan_evaluation
from finetune_trainer.train.recipe.lesson import MemoryLimits, describe_memory_limits, learn
from finetune_trainer.train.recipe.recipe import check_settings, decide_recipe
from finetune_trainer.train.recipe.shape import shape_of_train_split
from finetune_trainer.train.record import add_download_time, make_record


def train(context: StageContext) -> TrainResult:
    """Train the adapter, or reuse the published adapter of this run.

    Raises:
        UserError: The node, the data or the model does not meet the job.
        StorageError: Storage failed or holds incomplete files.
        TrainerError: As the failing rank classified it.
    """
    job, storage, workspace, model = context.job, context.storage, context.workspace, context.model
    key = f"{job.run_prefix}/adapter"
    if storage.output.exists(f"{key}/{MANIFEST_NAME}"):
        return reuse_adapter(model, workspace, key, approved=context.approved_data)
    hardware = detect_hardware()
    use_gpu = _require_device(storage, hardware)
    prepared = read_tokens(storage.output, job, workspace.folder, approved=context.approved_data)
    refuse_deleted(storage, prepared.folder)
    check_settings(job, hardware, num_rows=prepared.report.rows.train, use_gpu=use_gpu)
    model_dir, _ = model.fetch()
    lesson = learn(job, read_ends(storage.output, job.run_prefix))
    _require_fit(job, prepared, model_dir, hardware, lesson, use_gpu=use_gpu)
    check_mergeable(job.spec, model_dir)
    topology = topology_of(job)
    final_dir = workspace.scratch("final", fresh=True)
    plan = _plan_ranks(model, workspace, prepared, topology, lesson, use_gpu=use_gpu)
    outcome = _launch_ranks(storage, topology, plan, key)
    if topology.node_rank != 0:
        return wait_for_adapter(storage, workspace, key)
    record = make_record(model, prepared, outcome)
    with on_stop(
        "stopped on request before the adapter was published; the checkpoint of the last step is "
        "durable, and the next attempt only publishes"
    ):
        chat_format = read_format(prepared.folder)
        result = store_adapter(model, workspace, key, final_dir, record, chat_format)
    return add_download_time(result, model.download_seconds)


def _require_device(storage: RunStorage, hardware: Hardware) -> bool:
    """Return whether ranks run on GPUs.

    Raises:
        UserError: There are too few GPUs, or this image cannot train the adapter.
    """
    spec = storage.job.spec
    use_gpu = require_gpus(spec.resources.gpus_per_node, hardware)
    if spec.method.adapter.type == "QLoRA":
        require_bitsandbytes(spec.trainer.image)
    if spec.hyperparameters.optimizer == "AdamW8bit":
        require_bitsandbytes(
            spec.trainer.image,
            reason="OptimizerUnavailable",
            setting="hyperparameters.optimizer AdamW8bit",
            instead="Adafactor",
        )
    if spec.resources.gpus_per_node and not use_gpu:
        storage.say("no GPU is visible and CPU is allowed: training on CPU")
    return use_gpu


def _require_fit(
    job: ResolvedJob,
    prepared: Prepared,
    model_dir: Path,
    hardware: Hardware,
    lesson: MemoryLimits,
    *,
    use_gpu: bool,
) -> None:
    """Refuse a job that cannot fit before any rank is started.

    Raises:
        UserError: Training or evaluation does not fit; says what would.
    """
    data = shape_of_train_split(job, prepared.report)
    model = read_model_architecture(model_dir)
    recipe = decide_recipe(
        job,
        data,
        model,
        hardware,
        use_gpu=use_gpu,
        attention=expected_attention(job.spec.hyperparameters.attention, use_gpu=use_gpu),
        lesson=lesson,
    )
    plan_evaluation(
        job,
        data,
        model,
        recipe,
        hardware,
        num_chosen=prepared.num_chosen,
        may_reason=read_format(prepared.folder).knows_reasoning,
    )


def _plan_ranks(
    model: BaseModel,
    workspace: Workspace,
    prepared: Prepared,
    topology: Topology,
    lesson: MemoryLimits,
    *,
    use_gpu: bool,
) -> WorkerPlan:
    """Fetch the inputs of this node's ranks, and return their plan."""
    storage, (model_dir, revision) = model.storage, model.fetch()
    if words := describe_memory_limits(lesson):
        storage.say(words)
    adapter = name_targets(storage.job.spec.method.adapter, read_model_architecture(model_dir))
    output_dir = workspace.scratch("checkpoints", fresh=True)
    resume = _find_checkpoint(storage, output_dir)
    origin = None
    # Several nodes may yet fall back to no checkpoint together.
    if resume is None or topology.num_nodes > 1:
        origin = fetch_origin(storage, workspace, adapter, model_name=model.name, revision=revision)
    return WorkerPlan(
        job=str(_write_job(storage, workspace)),
        control_dir=str(workspace.scratch("control", fresh=True)),
        model_dir=str(model_dir),
        dataset_dir=str(prepared.folder),
        output_dir=str(output_dir),
        final_dir=str(workspace.scratch("final")),
        curve=str(_fetch_curve(storage, workspace)),
        resume_dir=str(resume.folder) if resume else None,
        resume_step=resume.step if resume else 0,
        inputs=_checkpoint_inputs(storage.job, adapter, prepared, model.name, revision),
        origin_dir=str(origin.folder) if origin else None,
        credentials_dir=str(storage.credentials_dir) if storage.credentials_dir else None,
        credentials_name=storage.access().credentials_name,
        use_gpu=use_gpu,
        lesson=asdict(lesson),
    )


def _launch_ranks(
    storage: RunStorage, topology: Topology, plan: WorkerPlan, key: str
) -> dict[str, Any]:
    """Run this node's ranks to their end; return the outcome of rank 0.

    The inputs of all nodes are on their disks when they meet. ``key`` is the adapter's: a node
    that comes back when it is stored starts no ranks.
    """
    control_dir = Path(plan.control_dir)
    plan_path = control_dir / "plan.json"
    plan_path.write_text(json.dumps(asdict(plan)))
    limits = Limits(step_seconds=storage.job.spec.trainer.step_timeout_seconds)
    with (
        noting_end(storage, control_dir),
        storage.keeping_logs(control_dir),
        _beginning_at(plan.resume_step),
    ):
        is_over = partial(storage.output.exists, f"{key}/{MANIFEST_NAME}")
        if not meet(topology, storage.job.uid, storage.say, is_over=is_over):
            return {}
        return run_ranks(topology, plan_path, control_dir, use_gpu=plan.use_gpu, limits=limits)


def _checkpoint_inputs(
    job: ResolvedJob, adapter: Adapter, prepared: Prepared, model_name: str, revision: str
) -> dict[str, str]:
    """Return the inputs of checkpoints, for their manifests."""
    return {
        "dataset": prepared.digest,
        "model": model_name,
        "revision": revision,
        "targetModules": ",".join(sorted(adapter.target_modules)),
        "worldSize": str(job.world_size),
        **({"initFrom": job.spec.init_from.uri} if job.spec.init_from else {}),
    }


def _find_checkpoint(storage: RunStorage, folder: Path) -> LocalCheckpoint | None:
    """Fetch the newest whole checkpoint; None to begin at step 0."""

    def tell(step: int, error: StorageError) -> None:
        storage.say(f"the checkpoint of step {step} is passed over as damaged: {error.message}")

    prefix = checkpoints_prefix(storage.job)
    found = fetch_newest(storage.output, prefix, folder, on_damaged=tell)
    if found is not None:
        storage.say(f"resuming from the checkpoint of step {found.step}")
    return found


@contextmanager
def _beginning_at(step: int) -> Iterator[None]:
    try:
        yield
    except TrainerError as error:
        error.resumed_from_step = step  # type: ignore[attr-defined]
        raise


def _write_job(storage: RunStorage, workspace: Workspace) -> Path:
    path, text = workspace.folder / "job.json", storage.job.to_json()
    path.write_text(text)
    key = f"{storage.job.run_prefix}/job.json"
    if not storage.output.exists(key):
        storage.output.write_bytes(key, text.encode())
    return path


def _fetch_curve(storage: RunStorage, workspace: Workspace) -> Path:
    path = workspace.folder / "metrics.jsonl"
    key = f"{storage.job.run_prefix}/metrics.jsonl"
    path.unlink(missing_ok=True)
    if storage.output.exists(key):
        path.write_bytes(storage.output.read_bytes(key))
    return path

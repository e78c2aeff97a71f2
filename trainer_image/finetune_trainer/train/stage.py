"""Stage ``train``: fetch, launch the ranks, publish the adapter.

This process never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import (
    Prepared,
    read_prepared,
    read_tokens,
)
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.hardware import Hardware, detect_hardware, require_gpus
from finetune_trainer.model.load import (
    expected_attention,
    read_model_architecture,
    require_bitsandbytes,
)
from finetune_trainer.publish.merge import check_mergeable
from finetune_trainer.stopping import on_stop
from finetune_trainer.train.adopted import adopt, describe_idle, idle_recipe
from finetune_trainer.train.checkpoint import LocalCheckpoint, fetch_newest
from finetune_trainer.train.origin import fetch_origin
from finetune_trainer.train.parent.attempts import noting_end, read_ends
from finetune_trainer.train.parent.launch import Topology, run_ranks
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
from finetune_trainer.train.record import make_record


def train(context: StageContext) -> TrainResult:
    """Train the adapter, or reuse the published adapter of this run.

    Raises:
        UserError: The node, the data or the model does not meet the job.
        StorageError: Storage failed or holds incomplete files.
        TrainerError: As the failing rank classified it.
    """
    job = context.job
    key = f"{job.run_prefix}/adapter"
    if context.output.exists(f"{key}/manifest.json"):
        return reuse_adapter(context, key)
    if job.spec.trains_nothing:
        return adopt_weights(context, key)
    hardware = detect_hardware()
    use_gpu = require_device(context, hardware)
    prepared = read_tokens(context.output, job, context.work_dir, approved=context.approved_data)
    check_settings(job, hardware, num_rows=prepared.report.rows.train, use_gpu=use_gpu)
    model_dir, revision = context.model_folder()
    lesson = learn(job, read_ends(context.output, job.run_prefix))
    require_fit(job, prepared, model_dir, hardware, lesson, use_gpu=use_gpu)
    check_mergeable(job.spec, model_dir)
    topology = topology_of(context)
    final_dir = context.scratch("final", fresh=True)
    plan = plan_ranks(context, prepared, model_dir, revision, topology, lesson, use_gpu=use_gpu)
    control_dir = Path(plan.control_dir)
    plan_path = control_dir / "plan.json"
    plan_path.write_text(json.dumps(asdict(plan)))
    limits = Limits(step_seconds=job.spec.trainer.step_timeout_seconds)
    with (
        noting_end(context, control_dir),
        context.keeping_logs(control_dir),
        _beginning_at(plan.resume_step),
    ):
        outcome = run_ranks(topology, plan_path, control_dir, use_gpu=use_gpu, limits=limits)
    if topology.node_rank != 0:
        return wait_for_adapter(context, key)
    record = make_record(context, prepared, revision, outcome)
    with on_stop(
        "stopped on request before the adapter was published; the checkpoint of the last step is "
        "durable, and the next attempt only publishes"
    ):
        return store_adapter(context, key, final_dir, record, read_format(prepared.folder))


def adopt_weights(context: StageContext, key: str) -> TrainResult:
    """Publish the weights of ``spec.initFrom`` as the run's adapter, and train nothing.

    Raises:
        UserError: They do not fit the job, or this node cannot evaluate them.
        StorageError: Storage failed or holds incomplete files.
    """
    job, hardware = context.job, detect_hardware()
    recipe = idle_recipe(job, hardware, use_gpu=require_device(context, hardware))
    prepared = read_prepared(
        context.output, job, context.work_dir, sides=(), approved=context.approved_data
    )
    model_dir, revision = context.model_folder(include_weights=False)
    data, model = shape_of_train_split(job, prepared.report), read_model_architecture(model_dir)
    plan_evaluation(
        job,
        data,
        model,
        recipe,
        hardware,
        num_chosen=prepared.num_chosen,
        may_reason=read_format(prepared.folder).knows_reasoning,
    )
    check_mergeable(job.spec, model_dir)
    if topology_of(context).node_rank != 0:
        return wait_for_adapter(context, key)
    _write_job(context)
    final_dir = context.scratch("final", fresh=True)
    origin, record = adopt(context, prepared, final_dir, recipe, revision=revision)
    context.emit.plan(describe_idle(job, data, model, recipe, step=origin.step))
    context.emit.progress()  # it takes the plan along
    with on_stop(
        "stopped on request before the adapter was published; the next attempt copies it again"
    ):
        return store_adapter(context, key, final_dir, record, read_format(prepared.folder))


def require_device(context: StageContext, hardware: Hardware) -> bool:
    """Return whether ranks run on GPUs.

    Raises:
        UserError: There are too few GPUs, or they cannot train the adapter.
    """
    job = context.job
    use_gpu = require_gpus(job.spec.resources.gpus_per_node, hardware)
    if job.spec.method.adapter.type == "QLoRA":
        _check_quantization(job, use_gpu=use_gpu)
    if job.spec.resources.gpus_per_node and not use_gpu:
        context.emit.message("no GPU is visible and CPU is allowed: training on CPU")
    return use_gpu


def require_fit(
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


def plan_ranks(
    context: StageContext,
    prepared: Prepared,
    model_dir: Path,
    revision: str,
    topology: Topology,
    lesson: MemoryLimits,
    *,
    use_gpu: bool,
) -> WorkerPlan:
    """Fetch the inputs of this node's ranks, and write their plan."""
    if words := describe_memory_limits(lesson):
        context.emit.message(words)
    output_dir = context.scratch("checkpoints", fresh=True)
    resume = find_checkpoint(context, output_dir)
    # Several nodes may yet fall back to no checkpoint together.
    needs_origin = resume is None or topology.num_nodes > 1
    origin = fetch_origin(context, revision=revision) if needs_origin else None
    return WorkerPlan(
        job=str(_write_job(context)),
        control_dir=str(context.scratch("control", fresh=True)),
        model_dir=str(model_dir),
        dataset_dir=str(prepared.folder),
        output_dir=str(output_dir),
        final_dir=str(context.scratch("final")),
        curve=str(_fetch_curve(context)),
        resume_dir=str(resume.folder) if resume else None,
        resume_step=resume.step if resume else 0,
        inputs=checkpoint_inputs(context, prepared, revision),
        origin_dir=str(origin.folder) if origin else None,
        credentials_dir=str(context.credentials_dir) if context.credentials_dir else None,
        credentials_name=context.access().credentials_name,
        use_gpu=use_gpu,
        lesson=asdict(lesson),
    )


def checkpoint_inputs(context: StageContext, prepared: Prepared, revision: str) -> dict[str, str]:
    """Return the inputs of checkpoints, for their manifests."""
    job = context.job
    return {
        "dataset": prepared.digest,
        "model": context.model_name,
        "revision": revision,
        "targetModules": ",".join(sorted(job.spec.method.adapter.target_modules)),
        "worldSize": str(job.world_size),
    }


def find_checkpoint(context: StageContext, folder: Path) -> LocalCheckpoint | None:
    """Fetch the newest whole checkpoint; None to begin at step 0."""

    def tell(step: int, error: StorageError) -> None:
        context.emit.message(
            f"the checkpoint of step {step} is passed over as damaged: {error.message}"
        )

    prefix = checkpoints_prefix(context)
    found = fetch_newest(context.output, prefix, folder, on_damaged=tell)
    if found is not None:
        context.emit.message(f"resuming from the checkpoint of step {found.step}")
    return found


def _check_quantization(job: ResolvedJob, *, use_gpu: bool) -> None:
    if not use_gpu:
        raise UserError(
            "QLoRANeedsGPU",
            "method.adapter.type QLoRA keeps the base in 4 bits, which is trained on GPUs only; "
            "use LoRA here",
        )
    require_bitsandbytes(job.spec.trainer.image)


@contextmanager
def _beginning_at(step: int) -> Iterator[None]:
    try:
        yield
    except TrainerError as error:
        error.resumed_from_step = step  # type: ignore[attr-defined]
        raise


def _write_job(context: StageContext) -> Path:
    path = context.work_dir / "job.json"
    path.write_text(context.job.to_json())
    key = f"{context.job.run_prefix}/job.json"
    if not context.output.exists(key):
        context.output.write_bytes(key, context.job.to_json().encode())
    return path


def _fetch_curve(context: StageContext) -> Path:
    path = context.work_dir / "metrics.jsonl"
    key = f"{context.job.run_prefix}/metrics.jsonl"
    path.unlink(missing_ok=True)
    if context.output.exists(key):
        path.write_bytes(context.output.read_bytes(key))
    return path

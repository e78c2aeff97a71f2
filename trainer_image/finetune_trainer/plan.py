"""``python -m finetune_trainer plan``: estimates time, memory and cost of a job; trains nothing.

Rows and tokens come from the prepared data set or from the command line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from finetune_api.meta import whole_bytes
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_api.v1alpha1.status.plan import PlanStatus
from finetune_trainer.context import StageContext
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.expected import (
    NOTHING_ASKED,
    Questions,
    as_scored_by,
    expect_held_out,
    expect_validation,
)
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.estimate import (
    Device,
    Planned,
    check_host_memory,
    device_here,
    estimate_time,
    host_memory_of,
    on_gpus,
    plan_on,
)
from finetune_trainer.failures import classify
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.load import read_model_architecture
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.throughput import GPUS, find_gpu
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.train.recipe.planned import describe_plan
from finetune_trainer.train.recipe.recipe import DataShape, find_warnings
from finetune_trainer.train.recipe.shape import shape_of_train_split


def plan_job(arguments: argparse.Namespace) -> int:
    """Write the plan of a job as JSON; returns the exit code."""
    job = ResolvedJob.from_json(Path(arguments.job).read_text())
    emit = EventEmitter(Stage.PREPARE)
    try:
        context = StageContext.from_environment(job, emit)
        data, held_out, validation, may_reason = _read_shape(context, arguments)
        folder, _ = context.model.fetch(include_weights=False)
        model = read_model_architecture(folder)
        device = choose_device(job, arguments.gpu)
        planned = _plan(device, job, data, model, may_reason=may_reason)
        time = estimate_time(planned, held_out, validation)
        warnings = [*_find_differences(job, device), *find_warnings(planned.recipe, data)]
        warnings += _check_pod(planned, refuses=arguments.gpu is not None)
    except Exception as error:
        failure = classify(error)
        code = int(failure.exit_code)
        emit.failure(reason=failure.reason, message=failure.message, exit_code=code, step=None)
        return code
    result = {
        "plan": describe_recipe(planned).to_wire(),
        "device": planned.device.name,
        "gpus": job.world_size if device.gpu else 0,
        "time": {
            "tokens": time.tokens,
            "tokensPerSecond": float(time.tokens_per_second),
            "seconds": time.train_seconds,
            "validationSeconds": time.validation_seconds,
            "evaluationSeconds": time.evaluate_seconds,
            "heldOutQuestions": held_out.number,
            # How many are enough is chosen with the data.
            "hasRedTeam": job.spec.evaluation.red_team is not None,
            "isNumberAssumed": bool(arguments.rows) and job.spec.evaluation.max_samples == "auto",
        },
        "evaluation": planned.evaluation.to_json(),
        "podMemory": host_memory_of(planned).total if device.gpu else 0,
        "warnings": warnings,
    }
    Path(arguments.out).write_text(json.dumps(result))
    return 0


def _plan(
    device: Device, job: ResolvedJob, data: DataShape, model: Architecture, *, may_reason: bool
) -> Planned:
    try:
        return plan_on(device, job, data, model, may_reason=may_reason)
    except UserError as error:
        if not _find_differences(job, device):
            raise
        hint = f"{error.message}; this machine has no GPU: --gpu h100 plans for one elsewhere"
        raise UserError(error.reason, hint) from error


def _check_pod(planned: Planned, *, refuses: bool) -> list[str]:
    """Compare ``resources.memory``, where the job states it, with the need of a training pod.

    Raises:
        UserError: ``HostMemoryTooSmall``, if it ``refuses``: on this machine there is no pod.
    """
    stated = planned.job.spec.resources.memory
    if stated is None:
        return []
    try:
        found = check_host_memory(planned, limit=whole_bytes(stated))
    except UserError as error:
        if refuses:
            raise
        found = error.message
    return [found] if found else []


def _find_differences(job: ResolvedJob, device: Device) -> list[str]:
    if device.gpu is None and job.spec.resources.gpus_per_node:
        return [
            "the job asks for GPUs, and this machine has none: the estimate is for its CPU, as "
            "finetune run would use it; --gpu h100, or another kind, tells it for GPUs"
        ]
    if device.is_known:
        return []
    return [f"the GPU of this machine is of no known kind: the estimate is for {device.name}"]


def describe_recipe(planned: Planned) -> PlanStatus:
    """Return the plan in the words of the API."""
    job, data, model, recipe = planned.job, planned.data, planned.model, planned.recipe
    return describe_plan(job, data, model, recipe)


def choose_device(job: ResolvedJob, kind: str | None) -> Device:
    """Return the hardware to plan for: the named GPUs, else this machine's.

    Raises:
        UserError: The job uses no GPU, or the kind is unknown.
    """
    if kind is None:
        return device_here(job)
    if job.spec.resources.gpus_per_node == 0:
        raise UserError(
            "NoGPUAsked", "--gpu: the job trains on CPU (resources.gpusPerNode 0); set it above 0"
        )
    gpu = find_gpu(kind)
    if gpu is None:
        raise UserError("UnknownGPU", f"--gpu {kind}: known kinds are {', '.join(sorted(GPUS))}")
    return on_gpus(job, gpu)


def _read_shape(
    context: StageContext, arguments: argparse.Namespace
) -> tuple[DataShape, Questions, Questions, bool]:
    """Take rows and tokens from the command line, else from the prepared data set.

    Unread questions are assumed to be as many as allowed, as long as the others, without reasoning.

    Returns:
        The training side, the held-out and the validation questions, and whether answers may
            reason.
    """
    job = context.job
    if arguments.rows:
        mean = arguments.tokens / arguments.rows
        limit = job.spec.hyperparameters.max_sequence_length
        longest = arguments.longest or min(limit, max(1, round(4 * mean)))
        mean = min(mean, float(limit))
        data = DataShape(
            num_rows=arguments.rows,
            num_tokens=int(mean * arguments.rows),
            mean_tokens=mean,
            longest_tokens=min(longest, limit),
        )
        asked = job.spec.evaluation.max_new_tokens
        answer = asked if isinstance(asked, int) else mean / 2
        most = most_asked(job.spec.evaluation)
        held_out = Questions(number=most, prompt_tokens=mean / 2, answer_tokens=answer)
        scoring, validation = job.spec.evaluation.validation, NOTHING_ASKED
        if scoring is not None:
            as_many = replace(held_out, number=scoring.max_samples)
            validation = as_scored_by(scoring.metric, as_many)
        return data, held_out, validation, False
    from finetune_trainer.prepare.stage import prepare

    prepare(context)
    prepared = read_prepared(context.storage.output, job, context.work_dir, sides=())
    report = prepared.report
    training = shape_of_train_split(job, report)
    may_reason = read_format(prepared.folder).knows_reasoning
    held_out = expect_held_out(job, report, chosen=prepared.num_chosen, may_reason=may_reason)
    validation = expect_validation(job, report, may_reason=may_reason)
    return training, held_out, validation, may_reason

"""Runs one stage and turns whatever happens into exit code, event and termination message."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from finetune_api.protocol.stage_results import limit_places
from finetune_api.protocol.termination import StageResult, TerminationMessage
from finetune_api.protocol.trainer import (
    CLASS_OF_EXIT_CODE,
    Environment,
    ExitCode,
    ResolvedJob,
    Stage,
)
from finetune_api.v1alpha1.status.dataset import InvalidRowPlace
from finetune_trainer import stopping
from finetune_trainer.context import StageContext, read_job
from finetune_trainer.decision import PublishDecision
from finetune_trainer.errors import RowsRefused, TrainerError
from finetune_trainer.failures import classify
from finetune_trainer.model.hardware import has_gpu_driver
from finetune_trainer.process import hide_torch
from finetune_trainer.publish.earlier import job_of_run
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.report.push import ProgressPush
from finetune_trainer.report.termination import write_termination
from finetune_trainer.tracking.stage import StageTracking

StageFunction = Callable[[StageContext], StageResult]


def run_stage(
    stage: Stage,
    job_path: Path,
    *,
    job_digest: str | None = None,
    approved_data: str | None = None,
    decision: PublishDecision | None = None,
) -> int:
    """Run one stage and return the process's exit code.

    ``job.json`` must have the sha256 ``job_digest``; None for any. ``approved_data`` is the digest
    of the only permitted data set; None for any.
    """
    push = ProgressPush.from_environment() if _is_first_node() else None
    emit = EventEmitter(stage, push=push)
    tracking: StageTracking | None = None
    try:
        context = StageContext.from_environment(
            read_job(job_path, digest=job_digest),
            emit,
            approved_data=approved_data,
            decision=decision,
        )
        if stage is not Stage.PREPARE:
            context = replace(context, job=job_of_run(context.storage))
        if does_without_torch(stage, context.job):
            hide_torch()
        is_first_node = _is_first_node()
        tracking = StageTracking(context.storage, context.workspace, is_first_node=is_first_node)
        result = _function_of(stage)(context)
        stopping.conclude()
        result = tracking.finish(result)
    except Exception as error:
        stopping.conclude()
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        exit_code = _end_with(emit, classify(error))
        if tracking is not None:
            tracking.fail(error)
        return exit_code
    emit.result(result)
    if push is not None and push.num_failed and not push.num_sent:
        emit.message(
            f"progress could not be pushed to the operator ({push.num_failed} tries, last: "
            f"{push.last_error}); results are in object storage all the same"
        )
    write_termination(
        TerminationMessage(
            stage=stage, exit_code=ExitCode.OK, reason="Succeeded", message="", result=result
        )
    )
    return ExitCode.OK


def does_without_torch(stage: Stage, job: ResolvedJob) -> bool:
    """Return whether a stage's own process needs no torch.

    An evaluation asks the models in other processes, but looks at GPUs by torch.
    """
    if job.spec.model.trust_remote_code:
        return False
    if stage is Stage.EVALUATE:
        return not has_gpu_driver() and job.spec.evaluation.custom_metric is None
    return stage is Stage.PREPARE


def _end_with(emit: EventEmitter, error: TrainerError) -> int:
    step: int | None = getattr(error, "step", None)
    rank: int | None = getattr(error, "rank", None)
    resumed_from: int | None = getattr(error, "resumed_from_step", None)
    places = error.places if isinstance(error, RowsRefused) else ()
    emit.failure(reason=error.reason, message=error.message, exit_code=error.exit_code, step=step)
    write_termination(
        TerminationMessage(
            stage=emit.stage,
            exit_code=error.exit_code,
            failure_class=CLASS_OF_EXIT_CODE[error.exit_code],
            reason=error.reason,
            message=error.message,
            step=step,
            resumed_from_step=resumed_from,
            rank=rank,
            invalid_rows=limit_places(map(InvalidRowPlace.model_validate, places)),
        )
    )
    return error.exit_code


def _function_of(stage: Stage) -> StageFunction:
    # Imported late: prepare, publish and the parent of train must start without torch.
    if stage is Stage.PREPARE:
        from finetune_trainer.estimate import prepare_with_estimate

        return prepare_with_estimate
    if stage is Stage.TRAIN:
        return _train
    if stage is Stage.PUBLISH:
        from finetune_trainer.publish.stage import publish

        return publish
    from finetune_trainer.evaluate.stage import evaluate

    return evaluate


def _train(context: StageContext) -> StageResult:
    """Train, and have the first node score the answers to validation rows if requested."""
    from finetune_trainer.train.stage import train

    trained = train(context)
    if context.job.spec.evaluation.validation is None or not _is_first_node():
        return trained
    from finetune_trainer.evaluate.stage import services_of
    from finetune_trainer.evaluate.validating import score_validation

    return score_validation(services_of(context), trained, approved=context.approved_data)


def _is_first_node() -> bool:
    return os.environ.get(Environment.NODE_RANK, "0") in ("", "0")

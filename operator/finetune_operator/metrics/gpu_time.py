"""Lost GPU time, and the time that jobs queued for GPUs. Pure.

All GPU time is in ``status`` (``finetunejob.state.gpu_time``). The lost part is estimated from the
start, end and exit of containers and the last reported step. The operator reads no storage, so it
assumes a checkpoint every ``checkpoint.everySteps`` steps.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from finetune_api.protocol.trainer import ExitCode, Stage
from finetune_api.v1alpha1.spec.hyperparameters import CHECKPOINT_STEPS
from finetune_operator.finetunejob.state.gpu_time import gpu_time_of_job
from finetune_operator.finetunejob.state.trimmed import Terminated, TrimmedPod, container_of
from finetune_operator.status.conditions import ConditionType, find_condition, parse_timestamp

Object = dict[str, Any]

_KEPT = (ExitCode.OK, ExitCode.STOPPED)
"""Ends that lose nothing: done, or saved and stopped."""
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def recorded_gpu_seconds(job: Object) -> int:
    """Return the GPU seconds of a job up to its last pause, or the last incident on record.

    The replica that leads when a run ends counts that run.
    """
    history = ((job.get("status") or {}).get("attempts") or {}).get("history") or ()
    ends = [moment for each in history if (moment := parse_timestamp(each.get("time")))]
    return gpu_time_of_job(job).until(max(ends, default=_BEFORE_ALL))


def lost_seconds(pod: TrimmedPod, job: Object, stage: Stage, now: datetime) -> float:
    """Return the running time of an ended pod that a later attempt repeats, in seconds.

    Args:
        pod: The trimmed pod; one that vanished while it ran has ended now.
        job: Its FineTuneJob.
        stage: Its stage.
        now: The present.

    Returns:
        Seconds; 0 if the container never ran.
    """
    container = container_of(pod)
    ended: Terminated = container.get("terminated") or {}
    started = parse_timestamp(
        ended.get("startedAt") or (container.get("running") or {}).get("startedAt")
    )
    if started is None:
        return 0.0
    finished = parse_timestamp(ended.get("finishedAt")) or now
    ran = max(0.0, (finished - started).total_seconds())
    if ended.get("exitCode") in _KEPT:
        return 0.0
    if stage is not Stage.TRAIN:
        return ran
    return min(ran, _seconds_since_checkpoint(job, started, finished, ran))


def _seconds_since_checkpoint(
    job: Object, started: datetime, finished: datetime, ran: float
) -> float:
    progress = (job.get("status") or {}).get("progress") or {}
    heartbeat = parse_timestamp(progress.get("lastHeartbeatTime"))
    step, total = progress.get("step"), progress.get("totalSteps")
    if progress.get("stage") != Stage.TRAIN or heartbeat is None or not step:
        return ran
    if heartbeat < started:
        return ran
    since_heartbeat = max(0.0, (finished - heartbeat).total_seconds())
    checkpoint = (job.get("spec") or {}).get("checkpoint") or {}
    every = checkpoint.get("everySteps") or CHECKPOINT_STEPS
    end = parse_timestamp(progress.get("estimatedCompletionTime"))
    if end is None or not total or total <= step:
        return since_heartbeat
    pace: float = max(0.0, (end - heartbeat).total_seconds() / (total - step))
    return since_heartbeat + float(step % every) * pace


def queued_seconds(old: Object, new: Object) -> float:
    """Return a job's wait until its quota was reserved, in seconds; 0 for other changes."""
    kind = ConditionType.QUOTA_RESERVED
    before = find_condition((old.get("status") or {}).get("conditions"), kind) or {}
    after = find_condition((new.get("status") or {}).get("conditions"), kind) or {}
    if (before.get("status"), after.get("status")) != ("False", "True"):
        return 0.0
    begun = parse_timestamp(before.get("lastTransitionTime"))
    ended = parse_timestamp(after.get("lastTransitionTime"))
    if begun is None or ended is None:
        return 0.0
    return max(0.0, (ended - begun).total_seconds())

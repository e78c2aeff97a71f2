"""The one account of a job's GPU time: GPUs times running time. Pure.

Budget, cost, sweeps and metrics read it from ``status.stages`` (:func:`gpu_time_of`).

A Job runs from the moment its pods may be made. A quota may refuse them for hours, and no node may
be free for them. In this time nothing is held and nothing is charged. The record keeps these
stretches, so that pods that are gone and restarts of the operator change no count. Time that
nobody observed is counted as if a pod had had a node; so is all time without a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from finetune_api.protocol.trainer import CPU_STAGES, Stage
from finetune_api.v1alpha1.status.fields import MAX_COUNT
from finetune_operator.finetunejob.state.retry import end_of_run
from finetune_operator.finetunejob.state.stages import StageState, StageView
from finetune_operator.finetunejob.state.trimmed import TrimmedPod
from finetune_operator.status.conditions import is_terminal, parse_timestamp

Object = dict[str, Any]

HOUR_SECONDS = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTime:
    """Running time of one stage, time without a node left out.

    Attributes:
        seconds: Running time without that since :attr:`since`; may be negative where time without
            a node has yet to be taken off.
        since: When the run that goes on began; None while nothing is held.
        least: Lower limit of the running time, in seconds.
    """

    seconds: int = 0
    since: datetime | None = None
    least: int = 0

    def until(self, now: datetime) -> int:
        """Return the seconds up to now."""
        running = 0 if self.since is None else _seconds(self.since, now)
        return max(0, self.least, self.seconds + running)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTime:
    """GPU time of one job.

    Attributes:
        told_seconds: GPU seconds in ``status.cost``. The account never falls below this.
        stages: GPUs and running time of each stage that holds GPUs.
    """

    told_seconds: int = 0
    stages: tuple[tuple[int, RunningTime], ...] = ()

    def until(self, now: datetime) -> int:
        """Return the GPU seconds up to now."""
        return max(self.told_seconds, sum(gpus * time.until(now) for gpus, time in self.stages))

    @property
    def closed(self) -> GpuTime:
        """The same without the runs that go on."""
        return replace(
            self, stages=tuple((gpus, replace(time, since=None)) for gpus, time in self.stages)
        )


def gpu_time_of(
    stages: Iterable[Mapping[str, Any]],
    cost: Mapping[str, Any] | None,
    num_gpus: Callable[[Stage], int],
) -> GpuTime:
    """Return the GPU time of a job.

    Args:
        stages: Its ``status.stages``.
        cost: Its ``status.cost``.
        num_gpus: GPUs that all pods of a stage hold while it runs.
    """
    held = tuple(
        (gpus, running_time_of(entry))
        for entry in stages
        if entry.get("name") in _STAGES and (gpus := num_gpus(Stage(entry["name"])))
    )
    told = decimal_or_zero((cost or {}).get("gpuHours"))
    return GpuTime(told_seconds=int(told * HOUR_SECONDS), stages=held)


def gpu_time_of_job(job: Object) -> GpuTime:
    """Return the GPU time of a FineTuneJob as its stored status tells it.

    A job that has ended holds nothing, whatever its record says of a run that goes on.
    """
    status = job.get("status") or {}
    time = gpu_time_of(
        status.get("stages") or (), status.get("cost"), lambda stage: gpus_of(job, stage)
    )
    return time.closed if is_terminal(status) else time


def running_time_of(entry: Mapping[str, Any]) -> RunningTime:
    """Return the running time in an entry of ``status.stages``."""
    recorded = entry.get("activeSeconds")
    if recorded is not None:
        return RunningTime(seconds=int(recorded))
    seconds = int(entry.get("pastSeconds") or 0) - int(entry.get("unplacedSeconds") or 0)
    least = int((entry.get("cut") or {}).get("activeSeconds") or 0)
    since = parse_timestamp(entry.get("runTime"))
    ends = map(parse_timestamp, (entry.get("deletedTime"), entry.get("unplacedSince")))
    end = min((each for each in ends if each is not None), default=None)
    if since is None or end is None:
        return RunningTime(seconds=seconds, since=since, least=least)
    return RunningTime(seconds=seconds + _seconds(since, end), least=least)


def seconds_with_unplaced(entry: Mapping[str, Any], now: datetime) -> int:
    """Return the running time in an entry as its Job counts it: time without a node is part of it.

    Deleting the Job gives no budget back.
    """
    counted = {key: value for key, value in entry.items() if key not in _UNPLACED}
    return running_time_of(counted).until(now)


def gpus_of(job: Object, stage: Stage) -> int:
    """Return the GPUs that all pods of a stage ask for."""
    spec = job.get("spec") or {}
    nodes = int((spec.get("resources") or {}).get("nodes") or 1)
    return gpus_per_pod(job, stage) * (nodes if stage is Stage.TRAIN else 1)


def gpus_per_pod(job: Object, stage: Stage) -> int:
    """Return the GPUs that one pod of a stage asks for."""
    spec = job.get("spec") or {}
    per_node = int((spec.get("resources") or {}).get("gpusPerNode", 1))
    if stage in CPU_STAGES:
        return 0
    asked = (spec.get("evaluation") or {}).get("gpus", "auto")
    return int(asked) if stage is Stage.EVALUATE and isinstance(asked, int) else per_node


def decimal_or_zero(text: object) -> Decimal:
    """Return an amount; 0 for what cannot be added up, such as ``1e99999999`` in a pod's report."""
    try:
        value = Decimal(str(text)) if text else Decimal(0)
    except InvalidOperation:
        return Decimal(0)
    return value if value.is_finite() and value.copy_abs() <= MAX_COUNT else Decimal(0)


# ---- time without a node -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Unplaced:
    """Time without a node, of one run of a stage.

    Attributes:
        seconds: Stretches that are over; None before any pod had a node.
        since: Begin of the one that goes on; None while a pod has a node, or nothing runs.
    """

    seconds: int | None = None
    since: datetime | None = None

    def until(self, now: datetime) -> int:
        """Return the seconds up to now."""
        return (self.seconds or 0) + (0 if self.since is None else _seconds(self.since, now))


def find_unplaced(
    entry: Mapping[str, Any], view: StageView, now: datetime, *, reported: datetime | None
) -> Unplaced:
    """Return the time without a node up to now.

    The record may be outdated, because a status is written only when a decision depends on it. So
    existing pods take precedence over the record.

    Args:
        entry: What ``status.stages`` holds of this run of the stage; empty for nothing.
        view: The stage as it is.
        now: The present.
        reported: When a pod of the stage last reported progress; None for never.
    """
    if view.job is None:
        return Unplaced()
    found = _up_to_the_last_pod(entry, view, reported)
    if view.has_ended or view.state is StageState.SUSPENDED:
        end = end_of_run(view.job["status"])
        return found if end is None or found.since is None else Unplaced(seconds=found.until(end))
    if view.state is StageState.RUNNING or any(map(_is_placed, view.pods)):
        return Unplaced(seconds=found.until(now))
    if found.since is None and view.run_began is not None:
        # Before the first pod nothing was placed; after one that is gone, nothing is from now on.
        since = view.run_began if found.seconds is None else max(view.run_began, now)
        return Unplaced(seconds=found.seconds, since=since)
    return found


def _up_to_the_last_pod(
    entry: Mapping[str, Any], view: StageView, reported: datetime | None
) -> Unplaced:
    """Return the time up to the last pod that is known to have had a node."""
    told, since = entry.get("unplacedSeconds"), parse_timestamp(entry.get("unplacedSince"))
    if since is None and told is None and _has_a_past(entry, view):
        told = 0  # of an operator that kept no record
    begin = since or (view.run_began if told is None else None)
    if begin is None:
        return Unplaced(seconds=told)
    came = [
        max(begin, at)
        for pod in view.pods
        if pod["spec"]["nodeName"] and (at := _placed_at(pod)) is not None
        # Others had their nodes, and left them, before this stretch began.
        if since is None or at >= since or _is_placed(pod)
    ]
    if came:
        return Unplaced(seconds=(told or 0) + _seconds(begin, min(came)))
    if view.state is StageState.SUCCEEDED or (reported is not None and reported > begin):
        return Unplaced(seconds=told or 0)  # when its pods came is not known any more
    return Unplaced(seconds=told, since=since)


def _has_a_past(entry: Mapping[str, Any], view: StageView) -> bool:
    assert view.job is not None
    return bool(
        entry.get("incidents")
        or entry.get("evictions")
        or view.past_seconds
        or view.job["status"].get("failed")
    )


def _is_placed(pod: TrimmedPod) -> bool:
    return bool(pod["spec"]["nodeName"]) and pod["status"]["phase"] in ("Pending", "Running")


def _placed_at(pod: TrimmedPod) -> datetime | None:
    """Return since when a pod has its node; who got it from no scheduler has it from the first."""
    scheduled = pod["status"].get("scheduledTime")
    return parse_timestamp(scheduled or pod["metadata"].get("creationTimestamp"))


_STAGES = frozenset(stage.value for stage in Stage)
_UNPLACED = ("unplacedSeconds", "unplacedSince")


def _seconds(begin: datetime, end: datetime) -> int:
    return max(0, int((end - begin).total_seconds()))

"""Counting attempts and running time.

Pods that were evicted disappear in time; the ledger remembers those it saw. After a restart of the
operator it starts from ``status.attempts`` and the pods that are still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_api.names import ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.trimmed import (
    JobStatus,
    TrimmedJob,
    TrimmedPod,
    container_of,
    init_container_of,
    read_count,
)
from finetune_operator.status.conditions import find_condition, parse_timestamp

UNSEEN = "ContainerStatusUnknown"
"""Reason that the kubelet gives for a container of which it finds no trace."""
LOST_REASONS = frozenset({UNSEEN, "Unknown"})
"""Reasons of a container that ended without anybody seeing how: ``Unknown`` is containerd's, of
what ran when its host went down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Pods of one FineTuneJob that were seen to start, or to be evicted, and how far it came.

    Attributes:
        started: UIDs of pods that started.
        evicted: UIDs of pods that were preempted, evicted or drained.
        base_started: Pods counted before this ledger began.
        base_evicted: Evictions counted before this ledger began.
        step: The highest optimiser step that was reported.
        stepped_at: When it was.
    """

    started: frozenset[str] = frozenset()
    evicted: frozenset[str] = frozenset()
    base_started: int = 0
    base_evicted: int = 0
    step: int = 0
    stepped_at: datetime | None = None

    @classmethod
    def resume(
        cls,
        attempts: Mapping[str, Any] | None,
        pods: Iterable[TrimmedPod],
        stages: Iterable[Mapping[str, Any]] | None = None,
    ) -> Ledger:
        """Begin from a status: pods that are there now were counted in it already.

        Args:
            attempts: ``status.attempts``.
            pods: The trimmed pods that are there now.
            stages: ``status.stages``: evictions by Kueue are counted there, and not of pods.
        """
        fresh = cls().seen(pods)
        counted = attempts or {}
        return replace(
            fresh,
            base_started=max(0, int(counted.get("total") or 0) - len(fresh.started)),
            base_evicted=max(
                0,
                int(counted.get("preemptions") or 0)
                - len(fresh.evicted)
                - queue_evictions(stages or ()),
            ),
        )

    def seen(self, pods: Iterable[TrimmedPod]) -> Ledger:
        """Add pods; returns itself when there is nothing new."""
        started: set[str] = set()
        evicted: set[str] = set()
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self.started and has_started(pod):
                started.add(uid)
            if uid not in self.evicted and is_disrupted(pod):
                evicted.add(uid)
        if not started and not evicted:
            return self
        return replace(self, started=self.started | started, evicted=self.evicted | evicted)

    def reached(self, progress: Mapping[str, Any] | None) -> Ledger:
        """Take in ``status.progress``; what is trained again after a crash is no progress."""
        told = progress or {}
        step = told.get("step")
        if told.get("stage") != Stage.TRAIN or not isinstance(step, int) or step <= self.step:
            return self
        moment = parse_timestamp(told.get("lastHeartbeatTime"))
        return self if moment is None else replace(self, step=step, stepped_at=moment)

    @property
    def num_started(self) -> int:
        """Pods that started, over the life of the job."""
        return self.base_started + len(self.started)

    @property
    def num_evicted(self) -> int:
        """Pods that were evicted, over the life of the job."""
        return self.base_evicted + len(self.evicted)


def queue_evictions(stages: Iterable[Mapping[str, Any]]) -> int:
    """Return how often Kueue stopped the pods of any of these ``status.stages``."""
    return sum(int(entry.get("evictions") or 0) for entry in stages)


def has_started(pod: TrimmedPod) -> bool:
    """Return whether the pod's container ran, however briefly."""
    status = pod["status"]
    if status["phase"] != "Pending":
        return True
    container = container_of(pod)
    return "running" in container or "terminated" in container


def is_disrupted(pod: TrimmedPod) -> bool:
    """Return whether the pod ended for no fault of its own: preempted, drained, its node lost.

    A pod that the kubelet evicts for going over its own limits is not marked so.
    """
    disrupted = find_condition(pod["status"].get("conditions"), "DisruptionTarget")
    return disrupted is not None and disrupted.get("status") == "True"


def is_over_its_limits(pod: TrimmedPod) -> bool:
    """Return whether the kubelet evicted the pod because it used more disk than it may.

    However its container ended: one that stops in time when asked (exit code 79) would write as
    much again.
    """
    return pod["status"].get("reason") == "Evicted" and not is_disrupted(pod)


def is_lost(pod: TrimmedPod) -> bool:
    """Return whether nobody knows how the pod's container ended: its node was restarted, mostly.

    Or one that comes before it. What the kubelet says of the pod itself explains why there is no
    trace of a container: it was evicted, or was turned away and never had one.
    """
    before = init_container_of(pod)
    ended = container_of(pod).get("terminated")
    if ended is None and before is not None:
        ended = before["state"].get("terminated")
    reason = (ended or {}).get("reason")
    return reason in LOST_REASONS and not (reason == UNSEEN and pod["status"].get("reason"))


def exit_code_of(pod: TrimmedPod) -> int | None:
    """Return the exit code of a pod's container, or None if it has not ended."""
    ended = container_of(pod).get("terminated") or {}
    code = ended.get("exitCode")
    return None if code is None else int(code)


def past_active_seconds(job: TrimmedJob) -> int:
    """Return the running time up to the last pause, noted when the operator paused the Job."""
    return read_count(_annotations(job).get(ACTIVE_SECONDS_ANNOTATION))


def active_seconds(job: TrimmedJob, now: datetime, *, past: int) -> int:
    """Return the running time of a Job over all its attempts, in seconds.

    Args:
        job: The trimmed Job.
        now: The present.
        past: Running time that was noted at the last pause, in seconds.
    """
    start = run_began(job)
    if start is None:
        return past
    end = end_of_run(job["status"]) or now
    return past + max(0, int((end - start).total_seconds()))


def run_began(job: TrimmedJob) -> datetime | None:
    """Return when the Job began, or began again after the last pause that was noted.

    Many versions of the Job controller keep ``status.startTime`` while a Job is suspended and set
    it anew some time after it was resumed (1.37 clears it). Until then it is the start of a run
    that is over.
    """
    text = job["status"].get("startTime")
    is_over = _annotations(job).get(ACTIVE_START_ANNOTATION) == text
    return None if is_over else parse_timestamp(text)


def end_of_run(status: JobStatus) -> datetime | None:
    """Return when the run that ``startTime`` began has ended; None while it goes on."""
    completed = parse_timestamp(status.get("completionTime"))
    for kind in ("Failed", "Suspended"):
        found = find_condition(status.get("conditions"), kind)
        if found is not None and found.get("status") == "True":
            return parse_timestamp(found.get("lastTransitionTime")) or completed
    return completed


def _annotations(job: TrimmedJob) -> dict[str, str]:
    found: dict[str, str] = job["metadata"].get("annotations") or {}
    return found

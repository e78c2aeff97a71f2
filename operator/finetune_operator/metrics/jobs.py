"""Metrics of FineTuneJobs: gauges counted at each scrape, counters fed by cache changes.

Both replicas have the gauges (take ``max`` over them). Only the leader counts, so sums over
replicas are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api.protocol.trainer import CPU_STAGES, FailureClass
from finetune_operator.controllers.memory.caches import Caches, key_of_owner
from finetune_operator.finetunejob.state.gpu_time import gpu_time_of_job, gpus_of
from finetune_operator.finetunejob.state.trimmed import TrimmedPod, container_of, stage_of
from finetune_operator.finetunejob.state.waiting import OTHER, class_of, current_stage, phase_of
from finetune_operator.kube.cache.store import EventType
from finetune_operator.kube.clock import Clock
from finetune_operator.metrics.census import take_census
from finetune_operator.metrics.gpu_time import lost_seconds, queued_seconds, recorded_gpu_seconds
from finetune_operator.status.conditions import parse_timestamp

Object = dict[str, Any]

_HOUR, _DAY = 3600.0, 86400.0
_BUCKETS = (
    *(60.0, 300.0, 900.0, 1800.0),
    *(_HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 16 * _HOUR),
    *(_DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY),
)
_ENDS = ("Succeeded", "Failed", "Pruned")


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "finetune_jobs",
            "FineTuneJobs by phase and reason; a failed job's reason is its class.",
            labels=["namespace", "phase", "reason"],
        ),
        GaugeMetricFamily(
            "finetune_gpus",
            "GPUs held by jobs' pods, or queued for.",
            labels=["namespace", "state"],
        ),
        GaugeMetricFamily(
            "finetune_job_waiting_seconds",
            "How long single jobs have been waiting: Queued, NotStarting, Silent (no progress"
            " report since), NoProgress (none at all). Waits of five minutes and more, at most 100"
            " jobs in each state.",
            labels=["namespace", "finetunejob", "state", "reason"],
        ),
    )


class JobMetrics(Collector):
    """Counts FineTuneJobs. Event loop only; created once the caches are.

    Args:
        caches: The counted objects and their changes.
        is_leader: Whether this replica counts changes.
    """

    def __init__(
        self,
        caches: Caches,
        registry: CollectorRegistry,
        *,
        clock: Clock,
        is_leader: Callable[[], bool],
        expects_progress: bool,
    ) -> None:
        self._caches = caches
        self._clock = clock
        self._is_leader = is_leader
        self._expects_progress = expects_progress
        self._counted: dict[str, int] = {}
        """GPU seconds that were counted of each job, by UID."""
        self._job_seconds = Histogram(
            "finetune_job_duration_seconds",
            "Time from the first stage's start to the job's end.",
            ["phase"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self._stage_seconds = Histogram(
            "finetune_stage_active_seconds",
            "Running time of a stage that has ended, over all its attempts.",
            ["stage"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self._job_failures = Counter(
            "finetune_job_failures_total",
            "FineTuneJobs that failed, by class.",
            ["class"],
            registry=registry,
        )
        self._attempt_failures = Counter(
            "finetune_attempt_failures_total",
            "Failures recorded in a status, by class; most are retried.",
            ["class"],
            registry=registry,
        )
        self._gpu_seconds = Counter(
            "finetune_gpu_seconds_total",
            "GPU seconds that jobs have used, productive or lost (what is done again), counted when"
            " a pod or the job ends; and of waits in the queue that have ended.",
            ["namespace", "state"],
            registry=registry,
        )
        for counter in (self._job_failures, self._attempt_failures):
            for word in (*FailureClass, OTHER):
                # Prometheus sees no increase in a new series: a counter has to rise from 0.
                counter.labels(str(word))
        registry.register(self)
        caches.finetunejobs.add_handler(self._on_finetunejob)
        caches.pods.add_handler(self._on_pod)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the gauges without counting."""
        yield from _gauges()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count all jobs: some 10 ms for 10,000 of them."""
        census = take_census(
            self._caches.finetunejobs.objects(),
            self._clock.now(),
            expects_progress=self._expects_progress,
        )
        jobs, gpus, waiting = _gauges()
        for labels, number in census.jobs.items():
            jobs.add_metric(labels, number)
        for owner, number in census.gpus.items():
            gpus.add_metric(owner, number)
        for wait in census.waits:
            key = (wait.namespace, wait.name, wait.state, wait.reason)
            waiting.add_metric(key, wait.seconds)
        yield from (jobs, gpus, waiting)

    def _on_finetunejob(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None:
            self._counted.pop((old or {}).get("metadata", {}).get("uid"), None)
            return
        if old is None or not self._is_leader():
            # The leader of that time has counted the pods whose ends are on record.
            uid = new["metadata"]["uid"]
            self._counted[uid] = max(self._counted.get(uid, 0), recorded_gpu_seconds(new))
            return
        before, after = old.get("status") or {}, new.get("status") or {}
        if before is after or before == after:
            return
        failure = after.get("lastFailure")
        if failure and failure != before.get("lastFailure"):
            self._attempt_failures.labels(class_of(after)).inc()
        if (phase := phase_of(new)) in _ENDS and phase_of(old) not in _ENDS:
            self._count_end(phase, after)
            self._count_gpu_time(new)
        seen = {item["name"] for item in before.get("stages") or () if item.get("completionTime")}
        for item in after.get("stages") or ():
            if item.get("completionTime") and item["name"] not in seen:
                self._stage_seconds.labels(item["name"]).observe(item.get("activeSeconds") or 0)
        if seconds := queued_seconds(old, new):
            namespace, num_gpus = new["metadata"]["namespace"], gpus_of(new, current_stage(new))
            self._gpu_seconds.labels(namespace, "queued").inc(seconds * num_gpus)

    def _count_end(self, phase: str, status: Object) -> None:
        begun = parse_timestamp(status.get("startTime"))
        ended = parse_timestamp(status.get("completionTime"))
        if begun is not None and ended is not None:
            seconds = max(0.0, (ended - begun).total_seconds())
            self._job_seconds.labels(phase).observe(seconds)
        if phase == "Failed":
            self._job_failures.labels(class_of(status)).inc()

    def _on_pod(self, kind: EventType, old: TrimmedPod | None, new: TrimmedPod | None) -> None:
        if old is None or "terminated" in container_of(old):
            return
        if new is None and "running" not in container_of(old):
            return
        if new is not None and "terminated" not in container_of(new):
            return
        pod = old if new is None else new
        key, stage = key_of_owner(pod), stage_of(pod)
        job = None if key is None else self._caches.finetunejobs.get(*key)
        if job is None or stage is None or stage in CPU_STAGES or not self._is_leader():
            return
        lost = lost_seconds(pod, job, stage, self._clock.now())
        self._count_gpu_time(job, lost=lost * gpus_of(job, stage))

    def _count_gpu_time(self, job: Object, *, lost: float = 0.0) -> None:
        """Count the GPU time of a job since the last count.

        Args:
            job: The FineTuneJob.
            lost: Repeated GPU seconds. All pods of an attempt end together, so the first one that
                ends counts for all.
        """
        metadata = job["metadata"]
        counted = self._counted.get(metadata["uid"], 0)
        new = max(0, gpu_time_of_job(job).until(self._clock.now()) - counted)
        lost = min(lost, new)
        self._counted[metadata["uid"]] = counted + new
        self._gpu_seconds.labels(metadata["namespace"], "productive").inc(new - lost)
        self._gpu_seconds.labels(metadata["namespace"], "lost").inc(lost)

"""Jobs in the queues of a real Kueue, whose pods only say that they ran.

API server, Job controller, Kueue and the operator are the real ones; there are no nodes, and
`Kubelet` writes the statuses that pods would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from benchmarks.control_plane.measure import num_writes, requests_by_kind
from benchmarks.control_plane.world import OPERATOR_AGENT, World, until

from finetune_api.names import JOB_LABEL, STAGE_LABEL
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.resource import JOBS, Object, Resource
from finetune_operator.kube.cache.informer import Informer
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import finetunejob

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "team"
URGENT = "urgent"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
KUEUE = {
    "clientConnection": {"qps": 1000, "burst": 2000},
    "featureGates": {"LocalQueueMetrics": False},
}
"""Its own limit of 50 requests a second would be what is measured, and then its metrics: with each
Workload that it takes from a queue, Kueue 0.17 counts that LocalQueue's others one by one."""
JOBS_PER_PLACE = 20
"""There is quota for one in so many: 500 of 10,000."""
MAX_BARE_JOBS = 2000
"""Enough to tell how many a second Kueue passes alone."""
NUM_WRITERS = 16
NUM_STAGES_IN_QUEUE = 2
"""Of a FineTuneJob: training and evaluation. Data are prepared without quota."""
NUM_EVICTIONS = 5
SAMPLE_SECONDS = 10.0
JOB_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
"""Patience per job, and besides: a machine that is shared with others is slow at times."""


async def measure_queue(name: str, world: World, count: int) -> dict[str, Any]:
    """Let ``count`` jobs pass a queue, after Kueue alone has passed as many Jobs."""
    quota = max(1, count // JOBS_PER_PLACE)
    bare = f"{world.namespace}-bare"
    world.cluster.kubectl("create", "namespace", bare)
    offer(world, quota, world.namespace, bare)
    num_queued = count * NUM_STAGES_IN_QUEUE
    num_bare = min(num_queued, MAX_BARE_JOBS)
    alone, alone_cpu = await _pass_bare_jobs(world, bare, num_bare)
    world.audit.mark()
    before, meter = world.operator.usage(), world.meter()
    async with _played(world, world.namespace), _watched(world, FINETUNEJOBS) as jobs:
        curve: list[dict[str, Any]] = []
        started = time.monotonic()
        sampling = asyncio.create_task(_sample(world, jobs, curve, started))
        await _create_all(
            world,
            FINETUNEJOBS,
            [finetunejob(f"job-{i:05d}", world.namespace, queueName=QUEUE) for i in range(count)],
        )
        created = time.monotonic() - started
        patience = JOB_SECONDS * count + PATIENCE_SECONDS
        await until(lambda: _num_over(jobs) >= count, patience, every=0.5)
        drained = time.monotonic() - started
        sampling.cancel()
        statuses = [job["status"] for job in jobs.store.objects()]
    cpu, after = meter.seconds(), world.operator.usage()
    kueue_after = world.usage_of("kueue")
    counts = requests_by_kind(world.audit.read(OPERATOR_AGENT))
    return {
        "scenario": name,
        "jobs": count,
        "quota": quota,
        "drained_seconds": round(drained, 1),
        "failed": sum(status["phase"] != "Succeeded" for status in statuses),
        "counted": sum(status["attempts"]["counted"] for status in statuses),
        "creating_seconds": round(created, 1),
        "bare_jobs": num_bare,
        "bare_jobs_seconds": round(alone, 1),
        "kueue_alone_for_as_many_seconds": round(alone / num_bare * num_queued, 1),
        "kueue_peak_rss_mib": round(kueue_after.peak_rss_mib, 1),
        "cpu_seconds_per_job": round((after.cpu_seconds - before.cpu_seconds) / count, 5),
        "writes_per_job": round(num_writes(counts) / count, 2),
        "operator_restarts": world.operator.num_restarts,
        "rss_mib": round(after.rss_mib, 1),
        "peak_rss_mib": round(after.peak_rss_mib, 1),
        "cpu_seconds_bare": alone_cpu,
        "cpu_seconds": cpu,
        "requests_per_job": {k: round(v / count, 3) for k, v in counts.most_common()},
        "curve": curve,
    }


async def measure_evictions(name: str, world: World, count: int) -> dict[str, Any]:
    """Preempt ``count`` jobs at once while all train, again and again; then let them end."""
    goes_on = True

    def script(job: str, stage: Stage, attempt: int) -> Fate:
        # Not by attempt: a job may be preempted before its pod is there.
        return Fate() if stage is Stage.TRAIN and goes_on else success(stage)

    offer(world, count, world.namespace, preemption="LowerPriority")
    world.audit.mark()
    meter = world.meter()
    started = time.monotonic()
    rounds: list[dict[str, float]] = []
    patience = JOB_SECONDS * count + PATIENCE_SECONDS
    async with _played(world, world.namespace) as kubelet, _watched(world, FINETUNEJOBS) as jobs:
        kubelet.script = script
        await _create_all(
            world,
            FINETUNEJOBS,
            [
                finetunejob(f"job-{i:05d}", world.namespace, queueName=QUEUE, backoffLimit=0)
                for i in range(count)
            ],
        )
        for number in range(1, NUM_EVICTIONS + 1):
            begin = time.monotonic()
            await until(lambda: _num_in(jobs, "Training") == count, patience, every=0.5)
            training = time.monotonic()
            urgent = _bare_job(f"urgent-{number}", world.namespace, cpu=count, priority=URGENT)
            await world.client.create(JOBS, urgent)
            await until(_all_preempted(jobs, number, count), patience, every=0.5)
            rounds.append(
                {
                    "until_all_train_seconds": round(training - begin, 1),
                    "until_all_wait_seconds": round(time.monotonic() - training, 1),
                }
            )
            goes_on = number < NUM_EVICTIONS  # all wait now: no pod is left that trains on
            await world.client.delete(JOBS, world.namespace, urgent["metadata"]["name"])
        with contextlib.suppress(TimeoutError):  # is told as unfinished
            await until(lambda: _num_over(jobs) >= count, patience, every=0.5)
        seconds, cpu = time.monotonic() - started, meter.seconds()
        statuses = [job["status"] for job in jobs.store.objects()]
    counts = requests_by_kind(world.audit.read(OPERATOR_AGENT))
    usage = world.operator.usage()
    return {
        "scenario": name,
        "jobs": count,
        "seconds": round(seconds, 1),
        "evictions": sum(status["attempts"]["preemptions"] for status in statuses),
        "unfinished": sum(status["phase"] != "Succeeded" for status in statuses),
        "counted": sum(status["attempts"]["counted"] for status in statuses),
        "miscounted": sum(
            status["attempts"]["preemptions"] != NUM_EVICTIONS for status in statuses
        ),
        "writes_per_job": round(num_writes(counts) / count, 2),
        "operator_restarts": world.operator.num_restarts,
        "peak_rss_mib": round(usage.peak_rss_mib, 1),
        "cpu_seconds": cpu,
        "requests_per_job": {k: round(v / count, 3) for k, v in counts.most_common()},
        "rounds": rounds,
    }


def offer(world: World, num_cpus: int, *namespaces: str, preemption: str = "Never") -> None:
    """Make one ClusterQueue with so many CPUs, a LocalQueue per namespace and a priority.

    Args:
        world: Where.
        num_cpus: Its quota.
        namespaces: Whose LocalQueues.
        preemption: ``withinClusterQueue``, by Kueue's default ``Never``. With another one Kueue
            looks through all that is admitted whenever something waits: half its time with 500.
    """
    quotas = {"cpu": str(num_cpus), "memory": "1000Ti"}
    resources = [{"name": key, "nominalQuota": value} for key, value in quotas.items()]
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": preemption},
        "resourceGroups": [
            {
                "coveredResources": list(quotas),
                "flavors": [{"name": QUEUE, "resources": resources}],
            }
        ],
    }
    local = {"spec": {"clusterQueue": QUEUE}}
    items = [
        _kueue_object("ResourceFlavor", QUEUE),
        _kueue_object("ClusterQueue", QUEUE) | {"spec": spec},
        _kueue_object("WorkloadPriorityClass", URGENT) | {"value": 1000},
        *(_kueue_object("LocalQueue", QUEUE, namespace) | local for namespace in namespaces),
    ]
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    world.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=document)


def _kueue_object(kind: str, name: str, namespace: str = "") -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": API, "kind": kind, "metadata": metadata}


def _bare_job(name: str, namespace: str, *, cpu: int = 1, priority: str = "") -> Object:
    """Return a Job as anybody would queue it, with a pod that `Kubelet` plays."""
    labels = {QUEUE_LABEL: QUEUE, **({PRIORITY_LABEL: priority} if priority else {})}
    container = {
        "name": "trainer",
        "image": "finetune-trainer:latest",
        "resources": {"requests": {"cpu": str(cpu)}},
    }
    template = {
        "metadata": {"labels": {} if priority else {JOB_LABEL: name, STAGE_LABEL: "train"}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"suspend": True, "template": template},
    }


async def _pass_bare_jobs(
    world: World, namespace: str, count: int
) -> tuple[float, dict[str, float]]:
    """Return the seconds that Kueue and the Job controller take for Jobs without an operator.

    And the processor time of each process, for them.
    """
    meter = world.meter()
    async with _played(world, namespace), _watched(world, JOBS, namespace) as jobs:
        started = time.monotonic()
        await _create_all(
            world, JOBS, [_bare_job(f"bare-{i:05d}", namespace) for i in range(count)]
        )

        def is_over() -> bool:
            return _num_that(jobs, lambda status: bool(status.get("succeeded"))) >= count

        await until(is_over, JOB_SECONDS * count + PATIENCE_SECONDS, every=0.5)
        return time.monotonic() - started, meter.seconds()


@contextlib.asynccontextmanager
async def _played(world: World, namespace: str) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(world.client, namespaces=(namespace,), transform=_trim_pod)
    async with kubelet.running():
        yield kubelet


def _trim_pod(pod: Object) -> Object:
    """Keep what `Kubelet` reads: there are tens of thousands."""
    metadata = pod["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    return {
        "metadata": {key: metadata[key] for key in kept},
        "status": {"phase": pod["status"].get("phase")},
    }


@contextlib.asynccontextmanager
async def _watched(
    world: World, resource: Resource, namespace: str = ""
) -> AsyncIterator[Informer]:
    """Keep the statuses of all objects of a kind."""
    scope = (namespace or world.namespace,)
    informer = Informer(world.client, resource, namespaces=scope, transform=_trim)
    task = asyncio.create_task(informer.run())
    try:
        await informer.synced.wait()
        yield informer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _trim(obj: Object) -> Object:
    metadata, status = obj["metadata"], obj.get("status") or {}
    kept = {key: status[key] for key in ("phase", "succeeded") if key in status}
    attempts = {"counted": 0, "preemptions": 0, **(status.get("attempts") or {})}
    return {
        "metadata": {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
        "status": {**kept, "attempts": {k: attempts[k] for k in ("counted", "preemptions")}},
    }


async def _create_all(world: World, resource: Resource, objects: list[Object]) -> None:
    """Create objects in their order, a few at a time."""
    left = iter(objects)

    async def write() -> None:
        for each in left:
            await world.client.create(resource, each)

    await asyncio.gather(*(write() for _ in range(NUM_WRITERS)))


async def _sample(
    world: World, jobs: Informer, curve: list[dict[str, Any]], started: float
) -> None:
    """Append where all jobs stand, and what operator and Kueue have used, until cancelled.

    Each is told on standard error too: a run of hours that is cut off leaves what it has measured.
    """
    while True:
        operator, kueue = world.operator.usage(), world.usage_of("kueue")
        phases = Counter(job["status"].get("phase", "New") for job in jobs.store.objects())
        curve.append(
            {
                "seconds": round(time.monotonic() - started),
                "phases": dict(sorted(phases.items())),
                "operator_rss_mib": round(operator.rss_mib),
                "operator_cpu_seconds": round(operator.cpu_seconds),
                "kueue_rss_mib": round(kueue.rss_mib),
                "kueue_cpu_seconds": round(kueue.cpu_seconds),
            }
        )
        print(json.dumps(curve[-1]), file=sys.stderr, flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)


def curve_table(curve: list[dict[str, Any]], num_rows: int = 16) -> list[str]:
    """Lay a curve out as the lines of a Markdown table, of at most so many rows and the last."""
    rows = curve[:: max(1, -(-len(curve) // num_rows))]
    rows += curve[-1:] if rows[-1] is not curve[-1] else []
    phases = sorted({phase for row in rows for phase in row["phases"]})
    figures = [key for key in rows[0] if key not in ("seconds", "phases")]
    header = ["seconds", *phases, *(figure.replace("_", " ") for figure in figures)]
    lines = [header, ["---:"] * len(header)]
    lines += [
        [row["seconds"], *(row["phases"].get(phase, 0) for phase in phases)]
        + [row[figure] for figure in figures]
        for row in rows
    ]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _num_that(jobs: Informer, check: Callable[[Object], bool]) -> int:
    return sum(check(job["status"]) for job in jobs.store.objects())


def _num_in(jobs: Informer, phase: str) -> int:
    return _num_that(jobs, lambda status: status.get("phase") == phase)


def _num_over(jobs: Informer) -> int:
    return _num_that(jobs, lambda status: status.get("phase") in ("Succeeded", "Failed"))


def _all_preempted(jobs: Informer, times: int, count: int) -> Callable[[], bool]:
    def waits(status: Object) -> bool:
        told = (status.get("phase"), status["attempts"]["preemptions"])
        return told == ("Queued", times)

    return lambda: _num_that(jobs, waits) == count

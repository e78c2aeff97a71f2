"""Sweeps beside as many plain jobs: what a trial costs the operator, over what a job does.

Both are measured on one API server, one after the other, each with an operator that has no past,
and as many jobs are under way at a time. A trial is prepared, trained and held; one of a sweep is
chosen, evaluated and published, the others are pruned. What the sweeps cost is their trials' cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from benchmarks.control_plane.driver import JobDriver
from benchmarks.control_plane.measure import num_writes, requests_by_kind
from benchmarks.control_plane.world import OPERATOR_AGENT, World, all_phase, settled, until

from finetune_api.meta import API_VERSION
from finetune_api.names import trial_name
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import Object
from kit.cluster.simulation import finetunejob, success_text

NUM_TRIALS = 10
PARALLELISM = 2
"""Trials of a sweep that are under way at once: the default."""
NUM_WARM_UP = 2
"""Sweeps, or as many jobs as they have trials, before it counts: what a process does once, such as
to open connections, is no job's cost."""
PATIENCE_SECONDS = 300.0
"""Patience, and one second for each job besides: a machine that is shared is slow at times."""

Run = Callable[[KubeClient, str, JobDriver, str, int], Coroutine[Any, Any, None]]
"""Called with a client, a namespace, what runs the Jobs, a prefix of names and a number
of sweeps, or of that many times ten jobs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What FineTuneJobs cost the operator.

    Attributes:
        writes: Writes per job, but for its creation, which of a plain job is its user's.
        cpu_seconds: Processor time per job.
        memory_kib: What its memory grew by, per job.
        peak_rss_mib: Its memory at most.
        seconds: From the first creation until all have ended.
        requests: Requests per job, by kind.
        by_process: Processor time of all processes.
    """

    writes: float
    cpu_seconds: float
    memory_kib: float
    peak_rss_mib: float
    seconds: float
    requests: dict[str, float]
    by_process: dict[str, float]


async def measure_sweeps(name: str, world: World, num_sweeps: int) -> dict[str, Any]:
    """Run sweeps of ten trials, after as many plain jobs."""
    plain = await _cost_of(world, run_jobs, num_sweeps)
    await world.renew()
    trial = await _cost_of(world, run_sweeps, num_sweeps)
    return {
        "scenario": name,
        "jobs": num_sweeps * NUM_TRIALS,
        "sweeps": num_sweeps,
        **{
            f"{figure}_over_plain": _ratio(getattr(trial, figure), getattr(plain, figure))
            for figure in ("writes", "cpu_seconds", "memory_kib")
        },
        **await _mistakes(world),
        **_figures(trial, ""),
        **_figures(plain, "plain_"),
        "cpu_seconds": trial.by_process,
        "requests_per_job": trial.requests,
        "requests_per_plain_job": plain.requests,
    }


def _ratio(of: float, over: float) -> float:
    """Return a ratio; no number where a few jobs have not cost anything that can be measured."""
    return round(of / over, 3) if over > 0 else float("nan")


def _figures(cost: Cost, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}writes_per_job": round(cost.writes, 2),
        f"{prefix}cpu_seconds_per_job": round(cost.cpu_seconds, 5),
        f"{prefix}memory_kib_per_job": round(cost.memory_kib, 1),
        f"{prefix}peak_rss_mib": round(cost.peak_rss_mib, 1),
        f"{prefix}seconds": round(cost.seconds, 1),
    }


async def _cost_of(world: World, run: Run, num_sweeps: int) -> Cost:
    driver = JobDriver(world.client, world.namespace, last_words=last_words)
    task = asyncio.create_task(driver.run())
    try:
        await driver.synced()
        await run(world.client, world.namespace, driver, "warm", NUM_WARM_UP)
        await settled(world.audit, 120)
        world.audit.mark()
        before, meter = world.operator.usage(), world.meter()
        started = time.monotonic()
        await run(world.client, world.namespace, driver, "sweep", num_sweeps)
        seconds, by_process = time.monotonic() - started, meter.seconds()
        await asyncio.sleep(3.0)
        after = world.operator.usage()
    finally:
        task.cancel()
    count = num_sweeps * NUM_TRIALS
    counts = requests_by_kind(world.audit.read(OPERATOR_AGENT))
    return Cost(
        writes=(num_writes(counts) - counts[f"create {FINETUNEJOBS.plural}"]) / count,
        cpu_seconds=(after.cpu_seconds - before.cpu_seconds) / count,
        memory_kib=(after.rss_mib - before.rss_mib) * 1024 / count,
        peak_rss_mib=after.peak_rss_mib,
        seconds=seconds,
        requests={kind: round(number / count, 3) for kind, number in counts.most_common()},
        by_process=by_process,
    )


async def run_jobs(
    client: KubeClient, namespace: str, driver: JobDriver, prefix: str, num_sweeps: int
) -> None:
    """Run as many jobs as the sweeps have trials, as many at a time."""
    count, before = num_sweeps * NUM_TRIALS, len(driver.completed)
    patience = PATIENCE_SECONDS + count

    def has_room(index: int) -> Callable[[], bool]:
        return lambda: index - (len(driver.completed) - before) < num_sweeps * PARALLELISM

    for index in range(count):
        await until(has_room(index), patience, every=0.01)
        job = finetunejob(f"{prefix}-{index:05d}", namespace)
        await client.create(FINETUNEJOBS, job)
    await until(lambda: len(driver.completed) - before >= count, patience)
    await all_phase(client, namespace, "Succeeded", before + count, patience)


async def run_sweeps(
    client: KubeClient, namespace: str, driver: JobDriver, prefix: str, num_sweeps: int
) -> None:
    """Run sweeps to their end, and to that of all their trials."""
    total = len((await client.list(FINETUNESWEEPS, namespace)).items) + num_sweeps
    patience = PATIENCE_SECONDS + num_sweeps * NUM_TRIALS
    for index in range(num_sweeps):
        await client.create(FINETUNESWEEPS, _sweep(f"{prefix}-{index:05d}", namespace))
    await until(lambda: len(driver.completed) >= total, patience)
    await all_phase(client, namespace, "Succeeded", total, patience, of=FINETUNESWEEPS)
    await all_phase(client, namespace, "Pruned", total * (NUM_TRIALS - 1), patience)


def _sweep(name: str, namespace: str) -> Object:
    rates = {"min": "1e-5", "max": "1e-2"}
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneSweep",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "template": finetunejob(name, namespace)["spec"],
            "parameters": [{"path": "hyperparameters.learningRate", "logUniform": rates}],
            "trials": NUM_TRIALS,
            "parallelism": PARALLELISM,
            "objective": {"metric": "validationLoss"},
        },
    }


def last_words(job: str, stage: Stage) -> str:
    """Return what a stage says at its end; a training tells a validation loss."""
    loss = loss_of(job) if stage is Stage.TRAIN else ""
    return success_text(stage, validation_loss=loss)


def loss_of(job: str) -> str:
    """Return the validation loss of a job; of trials, the lowest is that of the sweep's winner."""
    sweep, _, number = job.rpartition("-t")
    place = (int(number) - winner_of(sweep)) % NUM_TRIALS if sweep else 0
    return f"{1 + place / NUM_TRIALS:.1f}"


def winner_of(sweep: str) -> int:
    """Return the trial that is to win, another from sweep to sweep."""
    return 1 + int(sweep.rpartition("-")[2]) % NUM_TRIALS


async def _mistakes(world: World) -> dict[str, int]:
    """Count what a sweep must never do."""
    sweeps = (await world.client.list(FINETUNESWEEPS, world.namespace)).items
    jobs = (await world.client.list(FINETUNEJOBS, world.namespace)).items
    best = {sweep["metadata"]["name"]: sweep["status"]["best"]["name"] for sweep in sweeps}
    num_evaluated = sum(bool(job["status"].get("evaluation")) for job in jobs)
    return {
        "wrong_winners": sum(trial_name(name, winner_of(name)) != best[name] for name in best),
        "jobs_too_many": len(jobs) - len(sweeps) * NUM_TRIALS,
        "evaluated_too_many": num_evaluated - len(sweeps),
    }

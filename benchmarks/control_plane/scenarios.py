"""Measures the operator on a real API server: ``python benchmarks/control_plane/run.py``.

The child Jobs are completed by writing their status (``driver.py``); what is measured is the
operator's process and what it asks of the API server, whose audit log counts the requests.

Scenarios:
    rate: jobs at 5 per second; the time from a job's creation to that of its first child Job.
    burst: jobs all at once; the time until each has its first Job, and until all are complete.
    running: jobs whose training pushes progress every 5 seconds.
    idle: jobs whose training runs and pushes nothing.
    flood: three jobs in training, one of whose pods sends 4,000 forged tokens per second.
    queue: 10,000 jobs at once into a Kueue queue with quota for 500; before, what Kueue alone takes
        for as many bare Jobs as they put there.
    evictions: 1,000 jobs in a Kueue queue, each preempted five times while it trains.
    sweeps: 200 sweeps of ten trials, after 2,000 plain jobs; what a trial costs over a job.
    crowd: one tenant with 500 jobs at the size limit and a sweep of 100 such trials; another
        tenant's jobs meanwhile.

Each scenario has an API server and an operator of its own. Prints a table against the targets and
writes all figures to ``benchmarks/results/control_plane.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from benchmarks.control_plane.crowding import measure_crowd
from benchmarks.control_plane.driver import JobDriver
from benchmarks.control_plane.flood import longest_gap, run_forgers
from benchmarks.control_plane.measure import first_jobs, num_writes, percentile, requests_by_kind
from benchmarks.control_plane.queued import KUEUE, curve_table, measure_evictions, measure_queue
from benchmarks.control_plane.sweeping import measure_sweeps
from benchmarks.control_plane.world import (
    OPERATOR_AGENT,
    ROOT,
    World,
    all_phase,
    create_jobs,
    settled,
    until,
)

from finetune_api.protocol.trainer import Stage
from finetune_operator.kube.api.resource import PODS

RESULTS = ROOT / "benchmarks" / "results" / "control_plane.json"
IDLE_SECONDS = 30.0


async def measure_lives(name: str, world: World, count: int, per_second: float) -> dict[str, Any]:
    """Run ``count`` jobs to their end."""
    client, operator, audit, namespace = world.client, world.operator, world.audit, world.namespace
    driver = JobDriver(client, namespace)
    task = asyncio.create_task(driver.run())
    await driver.synced()
    audit.mark()
    before, meter = operator.usage(), world.meter()
    started = await create_jobs(client, namespace, count, per_second)
    await until(lambda: len(driver.first_seen) >= count, 120 + count / 10)
    await all_phase(client, namespace, "Succeeded", count, 300 + count)
    drained = time.monotonic() - started
    cpu = meter.seconds()
    await asyncio.sleep(3.0)
    after = operator.usage()
    task.cancel()
    firsts = first_jobs(audit.entries())
    latencies = firsts.latencies()
    counts = requests_by_kind(audit.entries(OPERATOR_AGENT))
    return {
        "scenario": name,
        "jobs": count,
        "first_job_p50_ms": round(1000 * percentile(latencies, 50), 1),
        "first_job_p99_ms": round(1000 * percentile(latencies, 99), 1),
        "first_job_max_ms": round(1000 * max(latencies, default=float("nan")), 1),
        "creating_seconds": round(firsts.creating_seconds(), 2),
        "last_first_job_seconds": round(firsts.last_seconds(), 2),
        "drained_seconds": round(drained, 2),
        "cpu_seconds_per_job": round((after.cpu_seconds - before.cpu_seconds) / count, 5),
        "writes_per_job": round(num_writes(counts) / count, 2),
        "rss_mib": round(after.rss_mib, 1),
        "peak_rss_mib": round(after.peak_rss_mib, 1),
        "cpu_seconds": cpu,
        "requests_per_job": {k: round(v / count, 3) for k, v in counts.most_common()},
    }


async def measure_running(name: str, world: World, count: int, *, pushes: bool) -> dict[str, Any]:
    """Hold ``count`` jobs in training and count what they cost."""
    client, operator, audit, namespace = world.client, world.operator, world.audit, world.namespace
    driver = JobDriver(client, namespace, hold=Stage.TRAIN)
    task = asyncio.create_task(driver.run())
    await driver.synced()
    await create_jobs(client, namespace, count, 0)
    await all_phase(client, namespace, "Training", count, 300 + count)
    await settled(audit, 120)
    pushers: list[asyncio.Task[None]] = []
    num_pushes = [0]
    if pushes:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50))
        pushers = [
            asyncio.create_task(_push(session, world, job, index / count * 5.0, num_pushes))
            for index, job in enumerate(driver.held)
        ]
        await asyncio.sleep(25.0)  # tokens reviewed, first writes done
    seconds = 60.0 if pushes else IDLE_SECONDS
    audit.mark()
    before, pushed = operator.usage(), num_pushes[0]
    await asyncio.sleep(seconds)
    after, pushed = operator.usage(), num_pushes[0] - pushed
    counts = requests_by_kind(audit.entries(OPERATOR_AGENT))
    for pusher in pushers:
        pusher.cancel()
    if pushes:
        await session.close()
    task.cancel()
    return {
        "scenario": name,
        "jobs": count,
        "seconds": seconds,
        "pushes_per_job_and_second": round(pushed / count / seconds, 3),
        "writes_per_job_and_second": round(num_writes(counts) / count / seconds, 4),
        "cpu_cores": round((after.cpu_seconds - before.cpu_seconds) / seconds, 3),
        "rss_mib": round(after.rss_mib, 1),
        "peak_rss_mib": round(after.peak_rss_mib, 1),
        "requests_per_job": {k: round(v / count, 3) for k, v in counts.most_common()},
    }


async def _push(
    session: aiohttp.ClientSession, world: World, job: str, delay: float, num_pushes: list[int]
) -> None:
    """Push as a trainer does: a projected token, a report every 5 seconds."""
    await asyncio.sleep(delay)
    token = await _pod_token(world, f"{job}-train-0-x")
    url = f"http://127.0.0.1:18090/progress/{world.namespace}/{job}/train"
    step = 0
    while True:
        step += 5
        report = {
            "trainerStatus": {
                "progressPercentage": min(99, step // 10),
                "estimatedRemainingSeconds": 600,
                "metrics": [
                    {"name": "loss", "value": f"{2 / (1 + step):.4f}"},
                    {"name": "learning_rate", "value": "0.0002"},
                    {"name": "tokens_per_second", "value": "1234.5"},
                ],
            },
            "finetune": {"step": step, "totalSteps": 1000, "epoch": step / 500},
        }
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post(url, json=report, headers=headers) as response:
            if response.status == 200:
                num_pushes[0] += 1
            else:
                sys.stderr.write(f"push: {response.status} {await response.text()}\n")
        await asyncio.sleep(5.0)


TABLES = {
    "cpu_seconds_bare": "CPU seconds, bare Jobs",
    "cpu_seconds": "CPU seconds",
    "requests_per_job": "requests per job",
    "requests_per_plain_job": "requests per plain job",
}
FLOOD_PER_SECOND = 4000.0
FLOOD_SECONDS = 30.0


async def measure_flood(name: str, world: World, rate: float) -> dict[str, Any]:
    """Push from two pods while a third sends ``rate`` forged tokens per second."""
    client, operator, audit, namespace = world.client, world.operator, world.audit, world.namespace
    driver = JobDriver(client, namespace, hold=Stage.TRAIN)
    task = asyncio.create_task(driver.run())
    await driver.synced()
    await create_jobs(client, namespace, 3, 0)
    await all_phase(client, namespace, "Training", 3, 120)
    await settled(audit, 120)
    forger, *honest = driver.held
    tokens = {
        job: await _pod_token(world, pod["metadata"]["name"]) for job, pod in driver.held.items()
    }
    path = f"/progress/{namespace}/{forger}/train"
    audit.mark()
    before = operator.usage()
    flood = asyncio.create_task(
        run_forgers(18090, path, tokens[forger], rate=rate, seconds=FLOOD_SECONDS)
    )
    seconds: list[float] = []
    failed = 0
    async with aiohttp.ClientSession() as session:
        while not flood.done():
            for job in honest:
                sent = time.monotonic()
                failed += await _push_once(session, namespace, job, tokens[job]) != 200
                seconds.append(time.monotonic() - sent)
            await asyncio.sleep(1.0)
    junk = await flood
    after = operator.usage()
    task.cancel()
    entries = audit.entries(OPERATOR_AGENT)
    return {
        "scenario": name,
        "jobs": 3,
        "longest_gap_of_renewals_seconds": round(longest_gap(entries), 2),
        "failed_pushes": failed,
        "pushes": len(seconds),
        "slowest_push_seconds": round(max(seconds), 2),
        "junk_offered_per_second": round(junk.offered / FLOOD_SECONDS),
        "junk_held_per_second": round(junk.held / FLOOD_SECONDS),
        "junk_answered_per_second": round(sum(junk.answers.values()) / FLOOD_SECONDS),
        "junk_connections_closed_per_second": round(junk.closed / FLOOD_SECONDS),
        "junk_answers": " ".join(f"{code}={n}" for code, n in junk.answers.items()),
        "token_reviews": requests_by_kind(entries)["create tokenreviews"],
        "cpu_cores": round((after.cpu_seconds - before.cpu_seconds) / FLOOD_SECONDS, 2),
        "requests_per_job": {},
    }


async def _push_once(session: aiohttp.ClientSession, namespace: str, job: str, token: str) -> int:
    url = f"http://127.0.0.1:18090/progress/{namespace}/{job}/train"
    headers = {"Authorization": f"Bearer {token}"}
    report = {"trainerStatus": {"progressPercentage": 10}, "finetune": {"step": 1}}
    async with session.post(url, json=report, headers=headers) as response:
        return response.status


async def _pod_token(world: World, pod: str) -> str:
    live = await world.client.get(PODS, world.namespace, pod)
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["finetune.dev"],
            "expirationSeconds": 3600,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod,
                "uid": live["metadata"]["uid"],
            },
        },
    }
    connection = world.connection
    async with world.session.post(
        f"{connection.server}/api/v1/namespaces/{world.namespace}/serviceaccounts/default/token",
        json=request,
    ) as response:
        body = await response.json()
    return str(body["status"]["token"])


Scenario = Callable[[World, float], Awaitable[dict[str, Any]]]
SCENARIOS: dict[str, Scenario] = {
    "rate": lambda world, scale: measure_lives("rate", world, int(300 * scale), 5.0),
    "burst": lambda world, scale: measure_lives("burst", world, int(1000 * scale), 0.0),
    "running": lambda world, scale: measure_running(
        "running", world, int(1000 * scale), pushes=True
    ),
    "idle": lambda world, scale: measure_running("idle", world, int(1000 * scale), pushes=False),
    "flood": lambda world, scale: measure_flood("flood", world, FLOOD_PER_SECOND * scale),
    "queue": lambda world, scale: measure_queue("queue", world, int(10000 * scale)),
    "evictions": lambda world, scale: measure_evictions("evictions", world, int(1000 * scale)),
    "crowd": lambda world, scale: measure_crowd("crowd", world, int(500 * scale)),
    "sweeps": lambda world, scale: measure_sweeps("sweeps", world, max(1, int(200 * scale))),
}
# Targets of this project, which the docs cite.
TARGETS: dict[str, dict[str, float]] = {
    "rate": {"first_job_p99_ms": 40, "cpu_seconds_per_job": 0.03, "writes_per_job": 10},
    "burst": {
        "last_first_job_seconds": 15,
        "cpu_seconds_per_job": 0.03,
        "writes_per_job": 10,
        "rss_mib": 150,
    },
    "running": {"writes_per_job_and_second": 0.07},
    "idle": {"writes_per_job_and_second": 0.0},
    # Renewed every 2 s; after 10 s without, the operator stops.
    "flood": {"longest_gap_of_renewals_seconds": 5.0, "failed_pushes": 0},
    "queue": {"drained_seconds": 600, "peak_rss_mib": 512, "failed": 0, "counted": 0},
    "evictions": {"unfinished": 0, "counted": 0, "miscounted": 0},
    "crowd": {
        "other_first_job_max_ms": 2000,
        "peak_rss_mib": 400,
        "peak_rss_after_start_mib": 400,
        "restarts": 0,
    },
    "sweeps": {
        "writes_over_plain": 1.2,
        "cpu_seconds_over_plain": 1.2,
        "memory_kib_over_plain": 1.2,
        "wrong_winners": 0,
        "jobs_too_many": 0,
        "evaluated_too_many": 0,
    },
}


async def run(name: str, scale: float, keep_log: Path | None) -> dict[str, Any]:
    """Run one scenario on an API server of its own."""
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        kueue = KUEUE if name in ("queue", "evictions") else None
        async with World(Path(folder), kueue=kueue, has_other=name == "crowd") as world:
            try:
                result = await SCENARIOS[name](world, scale)
            finally:
                if keep_log:
                    keep_log.write_bytes(world.operator.log.read_bytes())
    missed = {
        key: {"target": target, "measured": result[key]}
        for key, target in TARGETS[name].items()
        if not result[key] <= target
    }
    return {**result, "missed": missed}


def describe_host() -> str:
    """Name the processor, how many of its cores there are, and the memory."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    model = models[0] if models else platform.machine()
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, Python {python}"


def table_of(result: dict[str, Any]) -> str:
    """Lay a result out as a Markdown table, what has a target first."""
    targets = TARGETS[result["scenario"]]
    lines = [
        f"### {result['scenario']}: {result['jobs']} jobs",
        "",
        "| figure | measured | target | |",
        "|---|---|---|---|",
    ]
    figures = [key for key in result if key not in ("scenario", "jobs", "missed")]
    for key in sorted(figures, key=lambda key: key not in targets):
        value = result[key]
        if isinstance(value, (dict, list)):
            continue
        target = targets.get(key)
        words = (
            ("", "") if target is None else (f"<= {target}", "ok" if value <= target else "MISS")
        )
        lines.append(f"| {key} | {value} | {words[0]} | {words[1]} |")
    for key, heading in TABLES.items():
        if result.get(key):
            lines += ["", f"| {heading} | |", "|---|---|"]
            lines += [f"| {name} | {value} |" for name, value in result[key].items()]
    if result.get("curve"):
        lines += ["", *curve_table(result["curve"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the scenarios asked for; print and store the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the jobs")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--operator-log", type=Path, help="keep the operator's log")
    options = parser.parse_args()
    output = options.output
    if output is None and options.scale == 1.0 and set(options.scenarios) == set(SCENARIOS):
        output = RESULTS
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "host": describe_host(),
        "scale": options.scale,
        "results": [],
    }
    for name in options.scenarios:
        result = asyncio.run(run(name, options.scale, options.operator_log))
        report["results"].append(result)
        print(table_of(result), flush=True)
        if output is not None:
            output.write_text(json.dumps(report, indent=1) + "\n")
    if output is not None:
        print(f"{report['date']}, {report['host']}; written to {output}")
    return 1 if any(result["missed"] for result in report["results"]) else 0

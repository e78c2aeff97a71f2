"""Fires every alert of the chart by a real fault: ``python -m benchmarks.alert_faults``.

Starts a control plane with Kueue, operators whose clock runs ahead, does the faults, keeps what the
operators' ``/metrics`` say, and has promtool evaluate the chart's own rules over it. Writes
``benchmarks/results/alerts.md``; an alert whose scenario was not run keeps its last result.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from benchmarks.alert_faults.clock import FastClock
from benchmarks.alert_faults.promtool import Disagreement, Engine, metrics_of
from benchmarks.alert_faults.report import PAGE, Finding, keep_findings, show_page
from benchmarks.alert_faults.scenarios import (
    FIRST,
    MEANWHILE,
    QUEUED_SECONDS,
)
from benchmarks.alert_faults.world import Scenario, Seen, World

from devcluster.control_plane.controlplane import ControlPlane
from devcluster.kueue.beside import start_kueue
from devcluster.programs.binaries import ensure_built
from devcluster.starting import start_control_plane
from devcluster.teardown import remove_cluster
from kit.cluster.chart import IMAGES, install_crd
from kit.processes.operators import connection_of, open_client
from manifests import find_helm, render_chart

SPEED = 20.0


def main(arguments: list[str]) -> int:
    """Do all faults, write the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="alert_faults", description=__doc__)
    parser.add_argument(
        "--speed",
        type=float,
        default=SPEED,
        help=f"seconds of the operators' clock in one of ours ({SPEED:.0f}); 1 takes two hours",
    )
    parser.add_argument("--only", help="scenarios whose names hold this")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    promtool = ensure_built("promtool") / "promtool"
    with tempfile.TemporaryDirectory(prefix="alert-faults-") as scratch:
        folder = Path(scratch)
        groups = render_rules(folder)
        engine = Engine(promtool, groups, folder)
        rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
        seen = with_world(folder, metrics_of(rules.values()), options.speed, options.only or "")
        findings = [judge(engine, each, options.speed) for each in seen]
        if not all(finding.fired for finding in findings):
            keep_logs(folder)
    for finding in findings:
        print(finding.tell(), flush=True)
    missing = [] if options.only else sorted(set(rules) - {each.alert for each in seen})
    if missing:
        print(f"no fault for: {', '.join(missing)}")
    PAGE.write_text(show_page(keep_findings(findings), rules), encoding="utf-8")
    print(f"{PAGE}: {time.monotonic() - began:.0f} s")
    return 0 if not missing and all(finding.fired for finding in findings) else 1


def render_rules(folder: Path) -> list[dict[str, Any]]:
    """Return the rule groups of the chart."""
    rule = {"enabled": True, "queuedSeconds": QUEUED_SECONDS}
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump({"metrics": {"prometheusRule": rule}}))
    objects = render_chart([IMAGES, "--values", str(path)], helm=find_helm())
    (found,) = (each for each in objects if each["kind"] == "PrometheusRule")
    groups: list[dict[str, Any]] = found["spec"]["groups"]
    return groups


def with_world(folder: Path, metrics: frozenset[str], speed: float, only: str) -> list[Seen]:
    """Start a control plane with Kueue, run the scenarios, and remove it."""
    cluster = start_control_plane(owner_pid=os.getpid())
    try:
        start_kueue(cluster)
        install_crd(cluster)
        return asyncio.run(_run(cluster, folder, metrics, speed, only))
    finally:
        remove_cluster(cluster.name)


async def _run(
    cluster: ControlPlane, folder: Path, metrics: frozenset[str], speed: float, only: str
) -> list[Seen]:
    connection = connection_of(cluster)
    async with open_client(connection) as client:
        world = World(
            cluster=cluster,
            connection=connection,
            client=client,
            clock=FastClock(speed=speed, origin=time.time()),
            folder=folder,
            metrics=metrics,
            is_waiting=asyncio.Event(),
        )
        async with asyncio.TaskGroup() as group:
            first = group.create_task(_run_chosen([FIRST], world, only))
            first.add_done_callback(lambda _: world.is_waiting.set())
            await world.is_waiting.wait()
            rest = group.create_task(_run_chosen(MEANWHILE, world, only))
    return [*first.result(), *rest.result()]


async def _run_chosen(scenarios: Iterable[Scenario], world: World, only: str) -> list[Seen]:
    found: list[Seen] = []
    for scenario in scenarios:
        if only in scenario.__name__:
            found += await scenario(world)
    return found


def judge(engine: Engine, seen: Seen, speed: float) -> Finding:
    """Say when an alert fired, and that it was still when its fault began."""
    samples, began = seen.replica.samples, seen.replica.began[seen.alert]
    minute = engine.first_firing(seen.alert, samples)
    problem = ""
    if minute is None:
        problem = f"not within {samples.seconds / 60:.0f} min"
    else:
        try:
            engine.expect(seen.alert, samples, {began: [], minute: [seen.labels]})
        except Disagreement as error:
            problem = str(error)
    return Finding(
        alert=seen.alert,
        severity=engine.severity_of(seen.alert),
        fault=seen.fault,
        labels=seen.labels,
        minutes=0 if minute is None else minute - began,
        problem=problem,
        speed=speed,
        date=datetime.now(UTC).date().isoformat(),
    )


def keep_logs(folder: Path) -> None:
    """Show the end of the operators' logs: the folder goes."""
    for log in sorted(folder.glob("*.log")):
        print(f"---- {log.name}\n{log.read_text()[-1500:]}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

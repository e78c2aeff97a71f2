"""What the FineTuneJob's schema costs the API server, per write of a status.

Usage: python benchmarks/control_plane/schema_cost.py [--beside OLD.yaml ...] [--patches 400]

One API server serves the CRD as it is, the CRD without rules, and those of other files, each as a
group of its own with one job in it. The jobs are patched by turns, so that whatever else the
machine does meets all alike, and what is counted is the API server's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
if TYPE_CHECKING:
    from finetune_operator.kube.api.client import KubeClient

Object = dict[str, Any]

SPACE = "default"
RULES = "x-kubernetes-validations"
BLOCK = 50
"""Patches of one job before the next one's turn; processor time is told in steps of 10 ms."""


def without_rules(node: Any) -> Any:
    """Return a schema without what CEL is evaluated for."""
    if isinstance(node, dict):
        return {key: without_rules(value) for key, value in node.items() if key != RULES}
    return [without_rules(item) for item in node] if isinstance(node, list) else node


def in_group(crd: Object, group: str) -> Object:
    """Return the CRD under another group, so that several can be served at once."""
    name = f"{crd['spec']['names']['plural']}.{group}"
    return crd | {"metadata": {"name": name}, "spec": crd["spec"] | {"group": group}}


def status_at(step: int) -> Object:
    """Return the status of a job in training, as the operator would write it."""
    from benchmarks.control_plane.host import job

    progress = {"stage": "train", "step": step, "totalSteps": 100_000, "percent": 1}
    return {**job(0, step)["status"], "observedGeneration": 1, "progress": progress}


async def measure(crds: dict[str, Object], rounds: int) -> dict[str, list[float]]:
    """Patch a job of each CRD by turns.

    Returns:
        Milliseconds of the API server's processor time per patch, one figure a round.
    """
    from devcluster.control_plane.controlplane import ControlPlaneOptions
    from devcluster.starting import start_control_plane
    from devcluster.teardown import remove_cluster
    from finetune_operator.kube.api.client import KubeClient
    from finetune_operator.kube.api.connection import load_kubeconfig
    from finetune_operator.kube.api.transport import Transport

    cluster = start_control_plane(
        options=ControlPlaneOptions(audit_log=False), owner_pid=os.getpid()
    )
    try:
        (pid,) = (p.pid for p in cluster.state.processes if p.name == "kube-apiserver")
        connection = load_kubeconfig([Path(cluster.kubeconfig)])
        transport = Transport(connection, user_agent="schema-cost", qps=5000, burst=5000)
        async with KubeClient(transport) as client:
            return await _by_turns(client, crds, rounds, pid)
    finally:
        remove_cluster(cluster.name)


async def _by_turns(
    client: KubeClient, crds: dict[str, Object], rounds: int, pid: int
) -> dict[str, list[float]]:
    from benchmarks.control_plane.measure import usage_of

    kinds = {}
    for number, (name, crd) in enumerate(crds.items()):
        kinds[name] = await _serve(client, in_group(crd, f"variant-{number}.finetune.dev"))
        await _patch(client, kinds[name], 0)
    costs: dict[str, list[float]] = {name: [] for name in crds}
    for turn in range(1, rounds + 1):
        for name, kind in kinds.items():
            before = usage_of(pid).cpu_seconds
            await _patch(client, kind, turn * BLOCK)
            costs[name].append((usage_of(pid).cpu_seconds - before) * 1000 / BLOCK)
    return costs


async def _serve(client: KubeClient, crd: Object) -> Any:
    """Install a CRD and create a job of it."""
    from finetune_operator.kube.api.errors import NotFound
    from finetune_operator.kube.api.resource import Resource
    from kit.cluster.simulation import finetunejob

    definitions = Resource(
        group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions",
        kind="CustomResourceDefinition", namespaced=False,
    )  # fmt: skip
    await client.create(definitions, crd)
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]["name"]
    kind = Resource(
        group=crd["spec"]["group"], version=version, plural=names["plural"], kind=names["kind"]
    )
    body = finetunejob("job", SPACE, queueName="team") | {"apiVersion": kind.api_version}
    async with asyncio.timeout(60):
        while True:
            try:
                await client.create(kind, body)
                return kind
            except NotFound:
                await asyncio.sleep(0.1)


async def _patch(client: KubeClient, kind: Any, first: int) -> None:
    for step in range(first, first + BLOCK):
        patch = {"status": status_at(step)}
        await client.merge_patch(kind, SPACE, "job", patch, subresource="status")


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=400, help="of each variant")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="CRD.yaml")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("tools", "tests", "operator"))]
    import yaml

    from finetune_api.crd import build_crd

    crd = build_crd()
    crds = {"as it is": crd, "without rules": without_rules(crd)}
    crds |= {str(path): yaml.safe_load(path.read_text()) for path in arguments.beside}
    costs = asyncio.run(measure(crds, max(1, arguments.patches // BLOCK)))
    print(
        "| CRD | ms of API server CPU per status patch, median | lowest to highest |\n|---|---|---|"
    )
    for name, figures in costs.items():
        spread = f"{min(figures):.1f} to {max(figures):.1f}"
        print(f"| {name} | {statistics.median(figures):.1f} | {spread} |")
    print(f"\n{arguments.patches} patches each, {os.cpu_count()} cores, {date.today()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Many endpoints: what idle ones cost, and how long a switch of many at once takes.

``python benchmarks/control_plane/serving.py [--endpoints 1000] [--switching 200]`` runs the
operator on an API server of its own. Front and server pods are played by small HTTP servers, which
verify every version at once. Endpoints of one namespace follow one job, so that its next version
switches all of them. The result is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("operator", "trainer_image", "tests", "tools", "")]

from benchmarks.control_plane.measure import (  # noqa: E402
    num_writes,
    requests_by_kind,
    usage_of,
)

from devcluster.control_plane.controlplane import ControlPlaneOptions  # noqa: E402
from devcluster.starting import start_control_plane  # noqa: E402
from devcluster.teardown import remove_cluster  # noqa: E402
from finetune_operator.controllers.memory.caches import FINETUNEJOBS  # noqa: E402
from finetune_operator.controllers.memory.endpoints import FINETUNEENDPOINTS  # noqa: E402
from finetune_operator.kube.api.client import KubeClient  # noqa: E402
from finetune_operator.kube.api.connection import load_kubeconfig  # noqa: E402
from finetune_operator.kube.api.transport import Transport  # noqa: E402
from kit.cluster.chart import install_crd  # noqa: E402
from kit.cluster.serving_pods import Behaviour, ServingPods  # noqa: E402
from kit.cluster.simulation import finetunejob  # noqa: E402
from kit.processes.audit_log import AuditLog  # noqa: E402
from kit.processes.operators import OperatorProcess  # noqa: E402

OPERATOR_AGENT = "finetune-operator"
JOB = "headlines"
IDLE_SECONDS = 60.0
PATIENCE_SECONDS = 900.0


async def publish(client: KubeClient, namespace: str, version: int) -> None:
    """Let the job of a namespace have published a version."""
    uri = f"s3://models/versions/{namespace}/{JOB}/{version}/manifest.json"
    artifact = {"uri": "s3://models/x", "version": version, "manifestUri": uri}
    await client.merge_patch(
        FINETUNEJOBS, namespace, JOB, {"status": {"artifact": artifact}}, subresource="status"
    )


async def until_active(client: KubeClient, namespace: str, version: int, count: int) -> None:
    """Wait until so many endpoints answer with a version."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = await client.list(FINETUNEENDPOINTS, namespace)
        statuses = [each.get("status") or {} for each in found.items]
        num_active = sum(
            (status.get("active") or {}).get("version") == version and "candidate" not in status
            for status in statuses
        )
        if num_active >= count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{num_active} of {count} endpoints answer with version {version}")
        await asyncio.sleep(0.25)


async def until_silent(audit: AuditLog) -> None:
    """Wait until the operator has written nothing for 10 s."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        audit.mark()
        await asyncio.sleep(10.0)
        counts = requests_by_kind(audit.read(OPERATOR_AGENT))
        if not num_writes(counts):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the operator goes on writing: {dict(counts)}")


async def measure(client: KubeClient, audit: AuditLog, operator: OperatorProcess,
                  namespaces: list[str], per_namespace: int) -> dict[str, Any]:  # fmt: skip
    """Create endpoints, let them rest, and switch those of one namespace."""
    started = time.monotonic()
    for namespace in namespaces:
        await client.create(FINETUNEJOBS, finetunejob(JOB, namespace, suspend=True))
        await publish(client, namespace, 1)
        for number in range(per_namespace):
            body = {
                "apiVersion": FINETUNEENDPOINTS.api_version,
                "kind": FINETUNEENDPOINTS.kind,
                "metadata": {"name": f"endpoint-{number:04d}", "namespace": namespace},
                "spec": {"jobRef": {"name": JOB}},
            }
            await client.create(FINETUNEENDPOINTS, body)
    for namespace in namespaces:
        await until_active(client, namespace, 1, per_namespace)
    created = time.monotonic() - started
    await until_silent(audit)
    audit.mark()
    before = usage_of(operator.pid)
    await asyncio.sleep(IDLE_SECONDS)
    idle, rested = requests_by_kind(audit.read(OPERATOR_AGENT)), usage_of(operator.pid)
    audit.mark()
    started = time.monotonic()
    await publish(client, namespaces[0], 2)
    await until_active(client, namespaces[0], 2, per_namespace)
    switched, after = time.monotonic() - started, usage_of(operator.pid)
    await asyncio.sleep(3.0)
    counts = requests_by_kind(audit.read(OPERATOR_AGENT))
    return {
        "endpoints": len(namespaces) * per_namespace,
        "switching": per_namespace,
        "created_seconds": round(created, 1),
        "idle_writes": num_writes(idle),
        "idle_cpu_share": round((rested.cpu_seconds - before.cpu_seconds) / IDLE_SECONDS, 3),
        "switched_seconds": round(switched, 1),
        "writes_per_switch": round(num_writes(counts) / per_namespace, 2),
        "cpu_seconds_per_switch": round(
            (after.cpu_seconds - rested.cpu_seconds) / per_namespace, 4
        ),
        "peak_rss_mib": round(after.peak_rss_mib, 1),
        "requests_of_the_switch": dict(counts),
    }


async def run(num_endpoints: int, num_switching: int) -> dict[str, Any]:
    """Measure on a control plane of its own."""
    cluster = start_control_plane(
        options=ControlPlaneOptions(audit_log=True, controllers="*"), owner_pid=os.getpid()
    )
    try:
        install_crd(cluster)
        namespaces = [f"bench-{n}" for n in range(max(1, num_endpoints // num_switching))]
        for namespace in namespaces:
            cluster.kubectl("create", "namespace", namespace)
        transport = Transport(
            load_kubeconfig([Path(cluster.kubeconfig)]),
            user_agent="benchmark-driver",
            qps=2000,
            burst=2000,
        )
        with tempfile.TemporaryDirectory() as folder:
            operator = OperatorProcess(
                cluster, Path(folder), namespaces=namespaces, vllmImage="vllm/vllm-openai:v0.32.0"
            )
            try:
                async with KubeClient(transport) as client:
                    pods = ServingPods(client, Behaviour(), namespaces=tuple(namespaces))
                    async with pods.running():
                        audit = AuditLog(Path(cluster.audit_log))
                        return await measure(client, audit, operator, namespaces, num_switching)
            finally:
                operator.stop()
    finally:
        remove_cluster(cluster.name)


def main() -> int:
    """Run the benchmark; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--switching", type=int, default=200)
    arguments = parser.parse_args()
    result = asyncio.run(run(arguments.endpoints, arguments.switching))
    print(json.dumps(result, indent=2))
    return int(result["idle_writes"] > 0 or result["switched_seconds"] > 60)


if __name__ == "__main__":
    sys.exit(main())

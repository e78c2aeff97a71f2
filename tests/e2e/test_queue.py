"""A job in a Kueue queue: it waits for quota, can be paused there, and runs when it is admitted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e.world import HAS_KUEUE, Body, Tenant, apply
from support.eventually import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not HAS_KUEUE, reason="Kueue takes minutes to build: set DEVCLUSTER_KUEUE=1"
    ),
]

API = "kueue.x-k8s.io/v1beta1"
QUEUE = "team"


def cluster_queue(name: str, num_gpus: int) -> Body:
    """Return a queue with more than enough of everything but GPUs."""
    quotas = {"cpu": "100", "memory": "1000Gi", "nvidia.com/gpu": str(num_gpus)}
    resources = [{"name": key, "nominalQuota": value} for key, value in quotas.items()]
    group = {"coveredResources": list(quotas), "flavors": [{"name": name, "resources": resources}]}
    return {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": {"name": name},
        "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
    }


@pytest.fixture
def queue(team_b: Tenant) -> Iterator[str]:
    """A local queue whose cluster queue has no GPU yet; the name of the latter."""
    name = team_b.namespace
    flavor = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}}
    local = {
        "apiVersion": API,
        "kind": "LocalQueue",
        "metadata": {"name": QUEUE, "namespace": name},
        "spec": {"clusterQueue": name},
    }
    apply(team_b.node, flavor, cluster_queue(name, 0), local)
    yield name
    for kind in ("localqueue", "clusterqueue", "resourceflavor"):
        which = QUEUE if kind == "localqueue" else name
        team_b.node.kubectl("-n", name, "delete", kind, which, "--wait=false")


def test_a_queued_job_waits_is_paused_and_runs_once_it_is_admitted(
    team_b: Tenant, spec: Body, queue: str
) -> None:
    change = {"queueName": QUEUE, "resources": {"gpusPerNode": 1}}
    job = team_b.submit("queued", spec, change)
    job.wait(lambda s: s["phase"] == "Queued" and s.get("dataset"))  # prepared without quota
    status = job.wait(lambda s: "insufficient" in str(s["conditions"]))
    assert job.condition("QuotaReserved")["status"] == "False", status
    assert "nvidia.com/gpu" in job.condition("QuotaReserved")["message"]
    assert not job.running_pods()

    def is_active() -> bool:
        found = job.kubectl("get", "workloads", "-o", "json")
        return all(each["spec"].get("active", True) for each in json.loads(found)["items"])

    for suspend in (True, False):
        patch = json.dumps({"spec": {"suspend": suspend}})
        job.kubectl("patch", "ftj", job.name, "--type=merge", "-p", patch)
        eventually(lambda suspend=suspend: is_active() is not suspend, timeout=60, interval=0.5)
        job.wait(lambda s, suspend=suspend: (s["phase"] == "Suspended") is suspend)
    apply(team_b.node, cluster_queue(queue, 1))
    job.wait_published()
    assert job.condition("QuotaReserved")["status"] == "True"
    assert job.status()["attempts"]["counted"] == 0

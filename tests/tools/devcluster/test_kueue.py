"""Kueue on the dev cluster: a quota for one job admits three, one after the other."""

from __future__ import annotations

import itertools
import json

import pytest

from devcluster.kueue.install import install_kueue
from kit.processes.eventually import eventually

pytestmark = pytest.mark.slow

API = "kueue.x-k8s.io/v1beta2"
GPU = "nvidia.com/gpu"


def queue_manifests(namespace: str) -> list[dict]:
    flavor = {"name": namespace, "resources": [{"name": GPU, "nominalQuota": 2}]}
    return [
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": namespace}},
        {
            "apiVersion": API,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": [GPU], "flavors": [flavor]}],
            },
        },
        {
            "apiVersion": API,
            "kind": "LocalQueue",
            "metadata": {"name": "team", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    ]


def queued_job(namespace: str, number: int, image: str) -> dict:
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "1"],
        "resources": {"limits": {GPU: "2"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"queued-{number}",
            "namespace": namespace,
            "labels": {"kueue.x-k8s.io/queue-name": "team"},
        },
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


def test_three_jobs_pass_a_quota_for_one(kueue, base_image):
    install_kueue(kueue)  # the second time it is there
    namespace = "kueue-test"
    kueue.kubectl("create", "namespace", namespace)
    manifests = queue_manifests(namespace)
    manifests += [queued_job(namespace, number, base_image) for number in range(3)]
    for manifest in manifests:
        kueue.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def jobs() -> list[dict]:
        listed = kueue.kubectl("-n", namespace, "get", "jobs", "-o", "json")
        return json.loads(listed)["items"]

    eventually(
        lambda: all(job["status"].get("succeeded") for job in jobs()), timeout=120, interval=0.5
    )
    spans = sorted((job["status"]["startTime"], job["status"]["completionTime"]) for job in jobs())
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start >= end, f"two jobs held the quota at once: {spans}"
    kueue.kubectl("delete", "namespace", namespace, "--wait=false")

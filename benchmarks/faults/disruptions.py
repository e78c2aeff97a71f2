"""Rows on the dev cluster: pods, the operator and the control plane taken away from a job."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.faults.cluster import Cluster, Disturbance
from benchmarks.faults.matrix import Outcome, Row, WrongEnd, once
from benchmarks.faults.nodes import GRACE_SECONDS, SHORT_GRACE

from devcluster import host
from devcluster.errors import DevclusterError
from devcluster.node.node import Node
from kit.processes.installation import OPERATOR_LABEL, Job, is_training
from manifests import NAMESPACE, RELEASE

MAX_LIFE_SECONDS = 5.0
MIN_KILLS = 3
OUTAGE_SECONDS = 30.0
CHANGES: dict[str, dict[str, Any]] = {"job-deleted": SHORT_GRACE}
"""How the jobs of a row differ from those of others."""


def disruption_rows(cluster: Cluster) -> list[Row]:
    """Return the rows of this module."""
    rows = Disruptions(cluster)
    plan: list[tuple[str, str, Disturbance]] = [
        ("pod-deleted", "the training pod deleted by hand", rows.delete_pod),
        (
            "job-deleted",
            "the Job of the training deleted by hand; its pods get "
            f"{GRACE_SECONDS} s to end (120 by default)",
            rows.delete_job,
        ),
        ("pod-evicted", "the training pod evicted through the API", rows.evict_pod),
        ("node-drained", "the node drained, and allowed again", rows.drain_node),
        (
            "operator-killed",
            "all pods of the operator killed, from the job's creation to its end, each time one of "
            f"them has led for a random time of up to {MAX_LIFE_SECONDS:.0f} s",
            rows.kill_operator,
        ),
        (
            "api-server-restarted",
            f"the API server away for {OUTAGE_SECONDS:.0f} s while training",
            rows.restart_api_server,
        ),
        (
            "etcd-restarted",
            f"etcd killed while training, and started again after {OUTAGE_SECONDS:.0f} s",
            rows.restart_etcd,
        ),
        (
            "kubelet-restarted",
            f"the node's kubelet frozen for {OUTAGE_SECONDS:.0f} s while training",
            rows.restart_kubelet,
        ),
    ]
    return [
        Row(
            name=name,
            fault=fault,
            must="the same adapter, nothing counted",
            list_cells=once,
            run_cell=partial(rows.run, name, disturb),
            unfit=host.unfit_for_node,
        )
        for name, fault, disturb in plan
    ]


class Disruptions:
    """Runs the cells."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def run(self, name: str, disturb: Disturbance, _: str) -> Outcome:
        """Disturb a job and compare its end."""
        return self._cluster.compare(name, disturb, CHANGES.get(name))

    @contextmanager
    def delete_pod(self, job: Job) -> Iterator[None]:
        """Delete the pod as a person does who wants it to begin anew."""
        pod = training_pod(job)
        job.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        yield

    @contextmanager
    def delete_job(self, job: Job) -> Iterator[None]:
        """Delete the Job of the training, its pod with it."""
        training_pod(job)
        job.kubectl("delete", "job", f"{job.name}-train", "--wait=false")
        yield

    @contextmanager
    def evict_pod(self, job: Job) -> Iterator[None]:
        """Evict the pod as a drain does, without the drain."""
        pod = training_pod(job)
        name, namespace = pod["metadata"]["name"], job.tenant.namespace
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        job.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
        yield

    @contextmanager
    def drain_node(self, job: Job) -> Iterator[None]:
        """Drain the only node of the job's pods, then let it be used again."""
        node = training_pod(job)["spec"]["nodeName"]
        job.tenant.node.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
            *("--pod-selector", f"finetune.dev/job={job.name}", "--timeout", "120s"),
        )
        job.tenant.node.kubectl("uncordon", node)
        yield

    @contextmanager
    def kill_operator(self, job: Job) -> Iterator[None]:
        """Kill all replicas of the operator again and again, from now to the job's end.

        Each time once one of them leads: one that dies before would show nothing but that none was
        there.
        """
        is_over = threading.Event()
        num_kills = 0
        chance = random.Random(job.name)

        def kill() -> None:
            nonlocal num_kills
            while not is_over.wait(0.5):
                with contextlib.suppress(DevclusterError):  # the API server is busy: once more
                    if not is_led(job.tenant.node):
                        continue
                    is_over.wait(chance.uniform(0, MAX_LIFE_SECONDS))
                    job.tenant.node.kubectl(
                        *("-n", NAMESPACE, "delete", "pod", "-l", OPERATOR_LABEL),
                        *("--force", "--grace-period=0", "--wait=false"),
                    )
                    num_kills += 1

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        if num_kills < MIN_KILLS:
            raise WrongEnd(f"the operator was killed {num_kills} times")

    @contextmanager
    def restart_api_server(self, job: Job) -> Iterator[None]:
        """Take the API server away for a while."""
        job.wait(is_training)
        job.tenant.node.stop_api_server(grace_seconds=0)
        time.sleep(OUTAGE_SECONDS)
        job.tenant.node.start_api_server()
        yield

    @contextmanager
    def restart_etcd(self, job: Job) -> Iterator[None]:
        """Kill etcd, which the API server cannot do without, and start it again."""
        job.wait(is_training)
        job.tenant.node.restart_etcd(pause_seconds=OUTAGE_SECONDS)
        yield

    @contextmanager
    def restart_kubelet(self, job: Job) -> Iterator[None]:
        """Freeze the kubelet for a while; containers go on."""
        job.wait(is_training)
        (record,) = [p for p in job.tenant.node.state.processes if p.name == "kubelet"]
        os.kill(record.pid, signal.SIGSTOP)
        time.sleep(OUTAGE_SECONDS)
        os.kill(record.pid, signal.SIGCONT)
        yield


def is_led(node: Node) -> bool:
    """Return whether a pod of the operator that is there holds its Lease."""
    lease = node.kubectl(
        *("-n", NAMESPACE, "get", "lease", RELEASE, "-o", "jsonpath={.spec.holderIdentity}")
    )
    pods = node.kubectl("-n", NAMESPACE, "get", "pods", "-l", OPERATOR_LABEL, "-o", "name")
    return any(pod.removeprefix("pod/") in lease for pod in pods.split())


def training_pod(job: Job) -> dict[str, Any]:
    """Wait until a job trains; return its pod."""
    job.wait(is_training)
    (pod,) = job.running_pods()
    return pod

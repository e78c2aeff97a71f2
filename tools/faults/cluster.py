"""Rows on the dev cluster: pods, nodes, the operator and the API server taken away from a job.

The cluster is a real one of a single node (``tools/devcluster``), with the operator from its chart.
It is started at the first row that needs it, or the one that ``make cluster-up`` started is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from devcluster import host
from devcluster.images import load_images
from devcluster.node import Node, NodeOptions, start_node
from devcluster.paths import cluster_dir
from devcluster.state import load_state
from devcluster.teardown import remove_cluster
from e2e.world import OPERATOR_LABEL, Job, Tenant, helm, install_operator, is_training
from faults.matrix import Outcome, Row, WrongEnd, once
from faults.runs import Runs
from manifests import NAMESPACE, RELEASE
from support.eventually import eventually

LONG: dict[str, Any] = {
    "hyperparameters": {"maxSteps": 400},
    "checkpoint": {"everySteps": 20},
    "evaluation": {"maxSamples": 8},
    "backoffLimit": 0,
}
KILL_EVERY_SECONDS = 7.0
OUTAGE_SECONDS = 30.0
NODE_NAME = "node"

Disturbance = Callable[[Job], AbstractContextManager[None]]
"""Disturbs a job that trains; what it does lasts until the job's end."""


def cluster_rows(runs: Runs, resources: ExitStack) -> list[Row]:
    """Return the rows of this module; what they start ends with ``resources``."""
    rows = Cluster(runs, resources)
    plan: list[tuple[str, str, Disturbance]] = [
        ("pod-deleted", "the training pod deleted by hand", rows.delete_pod),
        ("pod-evicted", "the training pod evicted through the API", rows.evict_pod),
        ("node-drained", "the node drained, and allowed again", rows.drain_node),
        (
            "operator-killed",
            f"the operator's pod killed every {KILL_EVERY_SECONDS:.0f} s until the end",
            rows.kill_operator,
        ),
        (
            "api-server-restarted",
            f"the API server away for {OUTAGE_SECONDS:.0f} s while training",
            rows.restart_api_server,
        ),
        (
            "etcd-restarted",
            "etcd killed and started again while training",
            rows.restart_etcd,
        ),
        (
            "kubelet-restarted",
            f"the node's kubelet away for {OUTAGE_SECONDS:.0f} s while training",
            rows.restart_kubelet,
        ),
    ]
    found = [
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
    return found + [
        Row(
            name=name,
            fault=fault,
            must=must,
            list_cells=once,
            run_cell=lambda _: Outcome(ends="not run"),
            unfit=partial(str, why),
        )
        for name, fault, must, why in _ELSEWHERE
    ]


_ELSEWHERE = (
    (
        "kubelet-gone",
        "a node's kubelet stopped for good, its Node object stays; one and two nodes",
        "the same adapter on another node",
        "the dev cluster has one node",
    ),
    (
        "clock-moved",
        "the clock of node and control plane moved by an hour, both ways",
        "the same adapter, no deadline taken for reached",
        "it moves the clock of the whole machine; needs one of its own",
    ),
)


class Cluster:
    """Runs the cells on one cluster."""

    def __init__(self, runs: Runs, resources: ExitStack) -> None:
        self._runs = runs
        self._resources = resources
        self._tenant: Tenant | None = None
        self._expected = ""

    def run(self, name: str, disturb: Disturbance, _: str) -> Outcome:
        """Disturb a job and compare its end with that of an undisturbed one."""
        tenant = self._start()
        if not self._expected:
            self._expected = self._train(tenant, "undisturbed", lambda _: nullcontext())[0]
        found, attempts = self._train(tenant, name, disturb)
        if found != self._expected:
            raise WrongEnd(f"adapter {found[:12]}, undisturbed {self._expected[:12]}")
        if attempts.get("counted", 0):
            raise WrongEnd(f"it was counted against backoffLimit: {attempts}")
        num_attempts = 1 + int(attempts.get("preemptions", 0))
        return Outcome(
            ends="same adapter, nothing counted", digest=found, num_attempts=num_attempts
        )

    @contextmanager
    def delete_pod(self, job: Job) -> Iterator[None]:
        """Delete the pod as a person does who wants it to begin anew."""
        pod = pods_of(job)[0]
        job.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        yield

    @contextmanager
    def evict_pod(self, job: Job) -> Iterator[None]:
        """Evict the pod as a drain does, without the drain."""
        pod = pods_of(job)[0]
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
        node = pods_of(job)[0]["spec"]["nodeName"]
        job.tenant.node.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
            *("--pod-selector", f"finetune.dev/job={job.name}", "--timeout", "120s"),
        )
        job.tenant.node.kubectl("uncordon", node)
        yield

    @contextmanager
    def kill_operator(self, job: Job) -> Iterator[None]:
        """Kill the operator again and again, from now to the job's end."""
        is_over = threading.Event()

        def kill() -> None:
            while not is_over.wait(KILL_EVERY_SECONDS):
                with contextlib.suppress(Exception):
                    job.tenant.node.kubectl(
                        *("-n", NAMESPACE, "delete", "pod", "-l", OPERATOR_LABEL),
                        *("--force", "--grace-period=0", "--wait=false"),
                    )

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    @contextmanager
    def restart_api_server(self, job: Job) -> Iterator[None]:
        """Take the API server away for a while."""
        job.tenant.node.stop_api_server(grace_seconds=0)
        time.sleep(OUTAGE_SECONDS)
        job.tenant.node.start_api_server()
        yield

    @contextmanager
    def restart_etcd(self, job: Job) -> Iterator[None]:
        """Kill etcd, which the API server cannot do without, and start it again."""
        job.tenant.node.restart_etcd(pause_seconds=OUTAGE_SECONDS)
        yield

    @contextmanager
    def restart_kubelet(self, job: Job) -> Iterator[None]:
        """Freeze the kubelet for a while; containers go on."""
        (record,) = [p for p in job.tenant.node.state.processes if p.name == "kubelet"]
        os.kill(record.pid, signal.SIGSTOP)
        time.sleep(OUTAGE_SECONDS)
        os.kill(record.pid, signal.SIGCONT)
        yield

    def _train(self, tenant: Tenant, name: str, disturb: Disturbance) -> tuple[str, dict[str, Any]]:
        """Run a job through; returns its adapter's sha256 and what its status says of attempts."""
        job = tenant.submit(name, self._spec, LONG)
        job.wait(is_training)
        with disturb(job):
            status = wait_for_end(job)
        if status["phase"] != "Succeeded":
            raise WrongEnd(f"{status['phase']}: {json.dumps(status.get('lastFailure'))[:300]}")
        if left := pods_of(job):
            raise WrongEnd(f"{len(left)} pods still run after its end")
        return status["artifact"]["sha256"], status.get("attempts", {})

    def _start(self) -> Tenant:
        """Start cluster, operator and tenant once."""
        if self._tenant is not None:
            return self._tenant
        node = self._node()
        materials = self._runs.fresh({})
        self._spec = materials.spec()
        namespace = f"faults-{secrets.token_hex(2)}"
        tenant = Tenant.create(node, namespace, "team-a", Path(materials.folder / "keys"))
        tenant.upload(materials.model, "model")
        tenant.upload(materials.data, "rows.jsonl")
        install_operator(
            node,
            load_images(node.state),
            release=RELEASE,
            namespaces=[namespace],
            allow_cpu=True,
        )
        self._resources.callback(helm, node, "uninstall", RELEASE, "--namespace", NAMESPACE)
        self._tenant = tenant
        return tenant

    def _node(self) -> Node:
        state = load_state(cluster_dir(NODE_NAME))
        if state is not None and state.ready:
            node = Node(state, NodeOptions())
            if node.is_ready():
                return node
        node = start_node(options=NodeOptions(), owner_pid=os.getpid())
        self._resources.callback(remove_cluster, node.name)
        return node


def pods_of(job: Job) -> list[dict[str, Any]]:
    """Return the pods of a job that hold resources."""
    return list(job.running_pods())


def wait_for_end(job: Job) -> dict[str, Any]:
    """Return the status at a job's end; the API server may be away meanwhile."""
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(job.status())
        return found.get("phase") in ("Succeeded", "Failed")

    eventually(has_ended, timeout=900, interval=2)
    return found

"""Jobs on the dev cluster: one cluster, one operator from its chart, one tenant for all rows.

It is started at the first row that needs it, or the one that ``make cluster-up`` started is used.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.matrix import Outcome, WrongEnd
from benchmarks.faults.recording import recorded
from benchmarks.faults.runs import Runs

from devcluster.node.images import load_images
from devcluster.node.node import Node, NodeOptions
from devcluster.paths import cluster_dir
from devcluster.starting import start_node
from devcluster.state import load_state
from devcluster.teardown import remove_cluster
from kit.processes.eventually import eventually
from kit.processes.installation import Job, Tenant, helm, install_operator
from kit.processes.stages import merge
from manifests import NAMESPACE, RELEASE

TOLERATION_SECONDS = 20
"""How long pods stay bound to a node that does not answer; 300 by Kubernetes' default."""
LOST_POD_SECONDS = 30
"""How long the operator waits for a pod that should have ended; 120 by default."""
END_SECONDS = 1800.0
JOB: dict[str, Any] = {
    "hyperparameters": {"maxSteps": 800},
    "checkpoint": {"everySteps": 20},
    "evaluation": {"maxSamples": 8},
    "backoffLimit": 0,
}
_OTHER_STAGES = 2
_CLUSTER = "node"

Disturbance = Callable[[Job], AbstractContextManager[None]]
"""Disturbs a job from its creation on; what it does lasts until the job's end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """A job that succeeded.

    Attributes:
        job: The job.
        digest: Its adapter's sha256.
        attempts: What its status says of attempts.
    """

    job: Job
    digest: str
    attempts: dict[str, Any]


class Cluster:
    """Runs jobs on one cluster.

    Args:
        runs: Where models and data come from.
        resources: What is started ends with them.
        is_recording: Keep what Kubernetes says of each job, for tests to replay.
    """

    def __init__(self, runs: Runs, resources: ExitStack, *, is_recording: bool = False) -> None:
        self._runs = runs
        self._is_recording = is_recording
        self._resources = resources
        self._tenant: Tenant | None = None
        self._expected: dict[str, str] = {}
        self._num_jobs = 0

    @property
    def tenant(self) -> Tenant:
        """The tenant of all jobs; its cluster is started when it is first asked for."""
        if self._tenant is None:
            self._tenant = self._start()
        return self._tenant

    @property
    def node(self) -> Node:
        """The cluster."""
        return self.tenant.node

    def compare(
        self,
        name: str,
        disturb: Disturbance,
        change: dict[str, Any] | None = None,
        *,
        like: dict[str, Any] | None = None,
    ) -> Outcome:
        """Disturb a job and compare its end with that of an undisturbed one.

        Args:
            name: What the job is called.
            disturb: What is done to it.
            change: How its spec differs from that of other rows.
            like: The part of it that decides what is learned: the undisturbed job has no other.

        Raises:
            WrongEnd: It ended otherwise, or something was counted.
        """
        expected = self._undisturbed(like or {})
        end = self._train(name, disturb, change or {})
        if end.digest != expected:
            raise WrongEnd(f"adapter {end.digest[:12]}, undisturbed {expected[:12]}")
        if end.attempts.get("counted", 0):
            raise WrongEnd(f"it was counted against backoffLimit: {end.attempts}")
        return Outcome(
            ends="same adapter, nothing counted",
            digest=end.digest,
            num_attempts=int(end.attempts["total"]) - _OTHER_STAGES,
        )

    def _undisturbed(self, change: dict[str, Any]) -> str:
        key = repr(change)
        if key not in self._expected:
            self._expected[key] = self._train("undisturbed", lambda _: nullcontext(), change).digest
        return self._expected[key]

    def _train(self, name: str, disturb: Disturbance, change: dict[str, Any]) -> End:
        """Run a job through; what it leaves must be as its status says."""
        self._num_jobs += 1
        tenant = self.tenant
        trace, name = name, f"{name}-{self._num_jobs}"
        job = tenant.submit(name, self._runs.fresh({}).spec(), merge(JOB, change))
        try:
            with recorded(job, trace) if self._is_recording else nullcontext(), disturb(job):
                status = wait_for_end(job)
        except BaseException:
            keep_report(job)
            job.delete()
            raise
        if status["phase"] != "Succeeded":
            keep_report(job)
            raise WrongEnd(f"{status['phase']}: {json.dumps(status.get('lastFailure'))[:300]}")
        if left := job.running_pods():
            raise WrongEnd(f"{len(left)} pods still run after its end")
        return End(
            job=job, digest=status["artifact"]["sha256"], attempts=status.get("attempts", {})
        )

    def _start(self) -> Tenant:
        node = self._node()
        materials = self._runs.fresh({})
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
            config={"lostPodSeconds": LOST_POD_SECONDS},
        )
        self._resources.callback(helm, node, "uninstall", RELEASE, "--namespace", NAMESPACE)
        return tenant

    def _node(self) -> Node:
        state = load_state(cluster_dir(_CLUSTER))
        if state is not None and state.ready:
            node = Node(state, NodeOptions())
            if node.is_ready():
                return node
        flags = (
            f"--default-unreachable-toleration-seconds={TOLERATION_SECONDS}",
            f"--default-not-ready-toleration-seconds={TOLERATION_SECONDS}",
        )
        node = start_node(options=NodeOptions(api_server_flags=flags), owner_pid=os.getpid())
        self._resources.callback(remove_cluster, node.name)
        return node


def wait_for_end(job: Job) -> dict[str, Any]:
    """Return the status at a job's end; the API server may be away meanwhile."""
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.clear()
        found.update(job.status())
        return found.get("phase") in ("Succeeded", "Failed", "Pruned")

    eventually(has_ended, timeout=END_SECONDS, interval=2)
    return found


def keep_report(job: Job) -> None:
    """Print what is known of a job that ended wrong: the cluster goes with the run."""
    print(job.report(), flush=True)

"""Rows about wall clocks that are wrong: the operator's, beside a cluster whose clocks are right.

Only the clock of single processes can be moved on a machine that others use too; the control plane
is not among them (its programs ask the kernel, which has one wall clock).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.faults.cluster import Cluster
from benchmarks.faults.matrix import Outcome, Row, WrongEnd
from benchmarks.faults.runs import Runs
from benchmarks.faults.storage import MOVES

from devcluster import host
from kit.processes import moved_clock
from kit.processes.eventually import eventually
from kit.processes.installation import OPERATOR_LABEL, Job, apply, is_training
from manifests import NAMESPACE

CONFIG_MAP = "moved-clock"
FOLDER = "/moved-clock"
DEADLINE_SECONDS = 1800
CHANGE: dict[str, Any] = {"activeDeadlineSeconds": DEADLINE_SECONDS}
_CLOCK = "import time; print(time.time())"


def clock_rows(cluster: Cluster, runs: Runs) -> list[Row]:
    """Return the rows of this module."""
    rows = MovedClocks(cluster, runs)
    return [
        Row(
            name="clock-moved-operator",
            fault="the wall clock of the operator's processes moved by an hour while a job with "
            f"`activeDeadlineSeconds: {DEADLINE_SECONDS}` trains; nodes and control plane keep "
            "theirs",
            must="the same adapter, no deadline taken for reached, nothing counted",
            list_cells=lambda _: list(MOVES),
            run_cell=rows.move_operator,
            unfit=lambda: host.unfit_for_node() or moved_clock.unfit(),
        )
    ]


class MovedClocks:
    """Runs the cells."""

    def __init__(self, cluster: Cluster, runs: Runs) -> None:
        self._cluster = cluster
        self._runs = runs

    def move_operator(self, cell: str) -> Outcome:
        """Move the operator's clock while a job trains, and leave it so to the job's end."""
        with self._movable():
            name = f"clock-{cell.replace(' ', '-')}"
            return self._cluster.compare(name, partial(self._move, MOVES[cell]), CHANGE)

    @contextmanager
    def _move(self, seconds: int, job: Job) -> Iterator[None]:
        job.wait(is_training)
        self._set(seconds)
        yield
        offsets = self._offsets()
        if not all(abs(found - seconds) < 5 for found in offsets):
            raise WrongEnd(f"the replicas' clocks were off by {offsets} s at the job's end")

    def _set(self, seconds: int) -> None:
        """Move the clock of every replica that runs; returns once each has noticed."""
        patch = json.dumps({"data": {"offset": str(seconds)}})
        self._kubectl("patch", "configmap", CONFIG_MAP, "--patch", patch)

        def is_moved() -> bool:
            return all(abs(found - seconds) < 5 for found in self._offsets())

        eventually(is_moved, timeout=120, interval=2)

    def _offsets(self) -> list[float]:
        """Return by how many seconds the clock of each replica is off."""
        pods = self._kubectl("get", "pods", "-l", OPERATOR_LABEL, "-o", "name").split()
        return [
            float(self._kubectl("exec", pod, "--", "python3", "-c", _CLOCK)) - time.time()
            for pod in pods
        ]

    @contextmanager
    def _movable(self) -> Iterator[None]:
        """Have the operator run with a clock that can be moved; as it was, afterwards."""
        library = moved_clock.build(self._runs.new_folder())
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
            "data": {"offset": "0"},
            "binaryData": {library.name: base64.b64encode(library.read_bytes()).decode()},
        }
        apply(self._cluster.node, manifest)
        (deployment,) = self._kubectl("get", "deploy", "-l", OPERATOR_LABEL, "-o", "name").split()
        self._kubectl("patch", deployment, "--patch", json.dumps(deployment_patch()))
        try:
            self._wait_for_rollout(deployment)
            yield
        finally:
            self._kubectl("rollout", "undo", deployment)
            self._wait_for_rollout(deployment)
            self._kubectl("delete", "configmap", CONFIG_MAP)

    def _wait_for_rollout(self, deployment: str) -> None:
        self._kubectl("rollout", "status", deployment, "--timeout=180s")
        replicas = self._kubectl("get", deployment, "-o", "jsonpath={.spec.replicas}")

        def is_settled() -> bool:
            pods = self._kubectl("get", "pods", "-l", OPERATOR_LABEL, "-o", "name").split()
            return len(pods) == int(replicas)

        eventually(is_settled, timeout=120, interval=1)

    def _kubectl(self, *arguments: str) -> str:
        return self._cluster.node.kubectl("-n", NAMESPACE, *arguments)


def deployment_patch() -> dict[str, Any]:
    """Return what gives the operator's container a clock that can be moved."""
    container = {
        "name": "operator",
        "env": [
            {"name": "LD_PRELOAD", "value": f"{FOLDER}/{moved_clock.LIBRARY}"},
            {"name": moved_clock.FILE_VARIABLE, "value": f"{FOLDER}/offset"},
        ],
        "volumeMounts": [{"name": CONFIG_MAP, "mountPath": FOLDER, "readOnly": True}],
    }
    volume = {"name": CONFIG_MAP, "configMap": {"name": CONFIG_MAP}}
    return {"spec": {"template": {"spec": {"containers": [container], "volumes": [volume]}}}}

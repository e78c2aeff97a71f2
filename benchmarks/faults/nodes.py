"""Rows about a node that is lost while its Node object stays: nobody says that its pods have ended.

A second node (a kubelet and a containerd of its own) joins the cluster, takes one pod of the job,
and its kubelet is killed for good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks.faults.cluster import LOST_POD_SECONDS, TOLERATION_SECONDS, Cluster
from benchmarks.faults.matrix import Outcome, Row, WrongEnd

from devcluster import host
from devcluster.node.place import FIRST_NODE
from devcluster.node.worker import Worker, add_worker
from kit.processes.eventually import eventually
from kit.processes.installation import JOB_TIMEOUT_SECONDS, Job, is_training

NODE = "second"
GRACE_SECONDS = 10
SHORT_GRACE: dict[str, Any] = {
    "podTemplate": {"terminationGracePeriodSeconds": GRACE_SECONDS},
}
SHORT: dict[str, Any] = {"hyperparameters": {"maxSteps": 300}}
ENDS: dict[str, Callable[[Worker], None]] = {
    "containers run on": Worker.kill_kubelet,
    "power cut": Worker.cut_power,
}


def node_rows(cluster: Cluster, resources: ExitStack) -> list[Row]:
    """Return the rows of this module; the node it adds ends with ``resources``."""
    rows = LostNodes(cluster, resources)
    why = (
        f"pods tolerate that for {TOLERATION_SECONDS} s here, 300 by default; `lostPodSeconds` is"
        f" {LOST_POD_SECONDS}"
    )
    return [
        Row(
            name=name,
            fault=f"the kubelet of {whose} killed for good; its Node object stays. Once the "
            f"containers run on, once they are killed with it ({why})",
            must="the same adapter on another node, nothing counted",
            list_cells=lambda _: list(ENDS),
            run_cell=partial(rows.run, num_nodes),
            unfit=host.unfit_for_node,
        )
        for name, whose, num_nodes in (
            ("kubelet-gone", "the job's node", 1),
            ("kubelet-gone-of-two", "one of the job's two nodes", 2),
        )
    ]


class LostNodes:
    """Runs the cells."""

    def __init__(self, cluster: Cluster, resources: ExitStack) -> None:
        self._cluster = cluster
        self._resources = resources
        self._worker: Worker | None = None

    def run(self, num_nodes: int, cell: str) -> Outcome:
        """Lose the second node while a job trains there."""
        name = f"lost-{num_nodes}-{cell.replace(' ', '-')}"
        like = {**SHORT, "resources": {"nodes": num_nodes}}
        disturb = partial(self._lose, self._join(), num_nodes, ENDS[cell])
        return self._cluster.compare(name, disturb, {**SHORT_GRACE, **like}, like=like)

    @contextmanager
    def _lose(
        self, worker: Worker, num_nodes: int, end: Callable[[Worker], None], job: Job
    ) -> Iterator[None]:
        try:
            self._place(num_nodes, job)
            end(worker)
            yield
            if FIRST_NODE not in nodes_of(job, phases=("Succeeded",)):
                raise WrongEnd(f"no pod of the training succeeded on {FIRST_NODE}")
            worker.start_kubelet()
            self._clear(worker)
        except BaseException:
            worker.remove()
            self._worker = None
            raise

    def _place(self, num_nodes: int, job: Job) -> None:
        """Have a pod of the job train on the second node; another one trains on the first."""
        kubectl = self._cluster.node.kubectl
        try:
            # It takes one pod at a time: the first goes there, and if there is another, it waits.
            kubectl("cordon", FIRST_NODE)
            eventually(lambda: nodes_of(job) == [NODE], JOB_TIMEOUT_SECONDS, interval=1)
        finally:
            kubectl("uncordon", FIRST_NODE)
        job.wait(is_training)
        placed = nodes_of(job)
        if placed != sorted([NODE, FIRST_NODE][:num_nodes]):
            raise WrongEnd(f"trains on {placed}")

    def _clear(self, worker: Worker) -> None:
        """Wait until the node that is back has ended what still ran there: it takes one pod."""
        chosen = ("get", "pods", "-A", "--field-selector", f"spec.nodeName={NODE}", "-o", "json")

        def is_empty() -> bool:
            pods = json.loads(self._cluster.node.kubectl(*chosen))["items"]
            held = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
            return not held and not worker.pids()

        eventually(is_empty, JOB_TIMEOUT_SECONDS, interval=1)

    def _join(self) -> Worker:
        """Return the second node, which has nothing to do."""
        if self._worker is None:
            node = self._cluster.node
            self._worker = add_worker(node, NODE, max_pods=1)
            self._resources.callback(self._worker.remove)
            self._worker.pull(node.image("trainer"))
        return self._worker


def nodes_of(job: Job, *, phases: tuple[str, ...] = ("Pending", "Running")) -> list[str]:
    """Return the nodes of a job's training pods in these phases; Pending ones may have none."""
    found = [
        pod["spec"].get("nodeName")
        for pod in job.list("pods")
        if "-train-" in pod["metadata"]["name"] and pod["status"]["phase"] in phases
    ]
    return sorted(filter(None, found))

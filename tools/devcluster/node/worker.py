"""A second node on the same host: a kubelet and a containerd of its own, for tests that lose it.

It shares the host's network, so that pods of both nodes are on one bridge, and nothing else: its
containers, images, volumes and control group are its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from devcluster import process
from devcluster.errors import StateError
from devcluster.node import kubelet, runtime
from devcluster.node.images import pull_image
from devcluster.node.network import PodNetwork
from devcluster.node.node import Node
from devcluster.node.place import Place, further_place
from devcluster.node.removal import cgroup_pids, remove_cgroup, unmount_below
from devcluster.ports import PortClaims
from devcluster.progress import step


class Worker:
    """A node that joined a cluster. Its Node object stays whatever becomes of its processes.

    Attributes:
        name: Name of its Node object.
    """

    def __init__(
        self, cluster: Node, place: Place, *, ports: tuple[int, int], max_pods: int
    ) -> None:
        self.name = place.node
        self._cluster = cluster
        self._place = place
        self._ports = ports
        self._max_pods = max_pods

    def start_runtime(self) -> None:
        """Start its containerd."""
        cni = self._cluster.folder / "cni" / "net.d"
        runtime.start_runtime(
            self._cluster, self._place.runtime, cni=cni, registry=self._cluster.registry
        )

    def start_kubelet(self) -> None:
        """Start its kubelet, also again, and wait until the node is Ready."""
        kubelet.start_kubelet(
            self._cluster,
            pod_network(self._cluster),
            self._place,
            ports=self._ports,
            max_pods=self._max_pods,
        )

    def pull(self, reference: str) -> None:
        """Get an image of the cluster's registry before a pod waits for it."""
        pull_image(self._place.runtime, reference)

    def kill_kubelet(self) -> None:
        """Kill the kubelet: containers run on, and nobody tells the API server of them."""
        self._cluster.stop_process(self._place.kubelet, grace_seconds=0)

    def cut_power(self) -> None:
        """Kill the kubelet and every container, as when the machine is switched off."""
        self.kill_kubelet()
        process.kill_all(self.pids())

    def pids(self) -> list[int]:
        """Return the processes of its pods."""
        groups = kubelet.cgroup_folders(self._place.cgroup)
        return [pid for group in groups for pid in cgroup_pids(group)]

    def remove(self) -> None:
        """Delete the Node object and all that the node was."""
        with contextlib.suppress(Exception):
            self._cluster.kubectl("delete", "node", self.name, "--ignore-not-found")
        with contextlib.suppress(StateError):
            self.cut_power()
        with contextlib.suppress(StateError):
            self._cluster.stop_process(self._place.runtime.process)
        for shim in process.marked_processes(self._cluster.folder):
            if self._is_own(shim.pid):
                process.stop(shim, grace_seconds=0)
        folders = own_folders(self._place)
        unmount_below(folders)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for group in kubelet.cgroup_folders(self._place.cgroup):
            remove_cgroup(group)
        self._forget()

    def _is_own(self, pid: int) -> bool:
        """Return whether a process is a shim of this node's containerd."""
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return os.fsencode(self._place.runtime.socket) in command

    def _forget(self) -> None:
        state, place = self._cluster.state, self._place
        names = (place.kubelet, place.runtime.process)
        state.processes = [each for each in state.processes if each.name not in names]
        groups = [str(each) for each in kubelet.cgroup_folders(place.cgroup)]
        state.cgroups = [each for each in state.cgroups if each not in groups]
        gone = [str(each) for each in own_folders(place)]
        state.folders = [each for each in state.folders if each not in gone]
        self._cluster.save()


def add_worker(cluster: Node, name: str, *, max_pods: int = 100) -> Worker:
    """Let a second node join a cluster.

    Args:
        cluster: A running node cluster.
        name: Name of the node.
        max_pods: How many pods it takes at once.

    Raises:
        DevclusterError: A part did not start; what was made goes with the cluster.
    """
    place = further_place(cluster.name, name)
    claims = PortClaims(cluster.folder)
    ports = (claims.claim(address=cluster.gateway), claims.claim())
    groups = kubelet.cgroup_folders(place.cgroup)
    # Recorded before it is made, as everything that `down` removes.
    cluster.state.cgroups += [str(each) for each in groups]
    cluster.state.folders += [str(each) for each in own_folders(place)]
    cluster.save()
    kubelet.create_cgroups(groups)
    worker = Worker(cluster, place, ports=ports, max_pods=max_pods)
    with step(f"node {name}"):
        worker.start_runtime()
        worker.start_kubelet()
    return worker


def pod_network(cluster: Node) -> PodNetwork:
    """Return the pod network of a running cluster."""
    return PodNetwork(pod_range=cluster.state.values["pods"], gateway=cluster.gateway)


def own_folders(place: Place) -> list[Path]:
    """Return the folders of a further node outside its cluster's folder."""
    return [place.root.parent, place.runtime.state.parent]

"""Where the parts of one node lie: what two nodes on one host must not share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devcluster.node.runtime import Runtime, runtime_of
from devcluster.paths import cluster_dir, kubelet_root, socket_root

FIRST_NODE = "devcluster"
_CGROUP = "finetune-devcluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Names and folders of one node.

    Attributes:
        node: Name of the Node object.
        suffix: Behind the names of its processes and certificates; empty for the first node.
        cgroup: Root control group of its pods.
        folder: Configuration and credentials of its kubelet.
        root: Volumes and sockets of its kubelet.
        runtime: Its containerd.
    """

    node: str
    suffix: str
    cgroup: str
    folder: Path
    root: Path
    runtime: Runtime

    @property
    def kubelet(self) -> str:
        """Name of the kubelet's process."""
        return f"kubelet{self.suffix}"


def first_place(cluster: str) -> Place:
    """Return the place of the node that every node cluster has."""
    return Place(
        node=FIRST_NODE,
        suffix="",
        cgroup=_CGROUP,
        folder=cluster_dir(cluster) / "kubelet",
        root=kubelet_root(cluster),
        runtime=runtime_of(cluster),
    )


def further_place(cluster: str, node: str) -> Place:
    """Return the place of a node that joins a cluster; its images go with it."""
    own = f"{cluster}-{node}"
    root = kubelet_root(own)
    return Place(
        node=node,
        suffix=f"-{node}",
        cgroup=f"{_CGROUP}-{node}",
        folder=cluster_dir(cluster) / f"kubelet-{node}",
        root=root / "kubelet",
        runtime=Runtime(
            root=root / "containerd",
            state=socket_root(own) / "containerd",
            configuration=cluster_dir(cluster) / f"containerd-{node}",
            process=f"containerd-{node}",
        ),
    )
